#!/bin/sh
# Fails where C code calls the C library's allocator by name, outside of the files listed below: such a block is in no
# budget and no counter, and an allocator of ours would refuse it.
#
#   scripts/check-no-raw-allocs.sh            every C file below csrc/
#   scripts/check-no-raw-allocs.sh FILE...    these files or folders
#
# Comments, strings, longer names (nm_free) and members (port->free, methods.malloc) are no calls. Exit code: 0 none,
# 1 at least one, 2 the arguments or the list are wrong.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)

# path, reason
allowed() {
  cat <<'LIST'
csrc/alloc/system.c the system allocator: it is what stands on the C library
csrc/base/base.c the system layer: memory of the structures themselves
csrc/use/memlib_system.c memlib in a build without the core
csrc/include/memlib_redirect.h it gives these names to memlib
LIST
}

allowed | while read -r path reason; do
  [ -f "$root/$path" ] || { echo "check-no-raw-allocs: $path is allowed, and is no file" >&2; exit 2; }
  [ -n "$reason" ] || { echo "check-no-raw-allocs: $path is allowed without a reason" >&2; exit 2; }
done

[ $# -gt 0 ] || set -- "$root/csrc"

# The whole file at once: comments, strings and calls may run over lines.
check='
function blank(text,    kept) { kept = text; gsub(/[^\n]/, " ", kept); return kept }
function without_comments_and_strings(text,    out, token) {
    out = ""
    while (match(text, /\/\*|\/\/|"|\047/)) {
        out = out substr(text, 1, RSTART - 1)
        token = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART)
        if (token == "/*") {
            RLENGTH = index(substr(text, 3), "*/") + 3
            if (RLENGTH == 3) RLENGTH = length(text)
        }
        else if (token == "//") match(text, /^\/\/([^\n\\]|\\\n|\\[^\n])*/)
        else if (token == "\"") { if (!match(text, /^"([^"\\\n]|\\\n|\\[^\n])*"/)) RLENGTH = 1 }
        else if (!match(text, /^\047([^\047\\\n]|\\[^\n])*\047/)) RLENGTH = 1
        out = out blank(substr(text, 1, RLENGTH))
        text = substr(text, RLENGTH + 1)
    }
    return out text
}
function is_call(before, after) {
    if (before ~ /[A-Za-z0-9_]$/ || after ~ /^[A-Za-z0-9_]/) return 0
    sub(/[ \t\n]+$/, "", before)
    if (before ~ /(\.|->)$/) return 0
    if (after ~ /^[ \t\n]*\(/) return 1
    # (malloc)(1): the name in brackets, behind what is no name itself, as in `if (free) (void)0`
    if (before !~ /\($/ || after !~ /^[ \t\n]*\)[ \t\n]*\(/) return 0
    sub(/[ \t\n]*\($/, "", before)
    return before !~ /[A-Za-z0-9_]$/ || before ~ /(^|[^A-Za-z0-9_])return$/
}
{ text = text $0 "\n" }
END {
    code = without_comments_and_strings(text)
    line = 1; context = ""; found = 0
    names = "(malloc|calloc|realloc|free|strdup|strndup|aligned_alloc|posix_memalign)"
    while (match(code, names)) {
        before = substr(code, 1, RSTART - 1)
        name = substr(code, RSTART, RLENGTH)
        code = substr(code, RSTART + RLENGTH)
        lines = before; line += gsub(/\n/, "", lines)
        # enough of what stood there before to see a member or a longer name
        context = substr(context, length(context) - 200) before
        if (is_call(context, code)) { printf "%s:%d: calls %s() of the C library\n", shown, line, name; found = 1 }
        context = context name
    }
    exit found
}'

status=0
list=$(find "$@" -type f \( -name '*.c' -o -name '*.h' -o -name '*.inc' -o -name '*.in' \) -print) || exit 2
list=$(printf '%s\n' "$list" | LC_ALL=C sort)
old_ifs=$IFS
IFS='
'
for file in $list; do
  folder=$(CDPATH='' cd -- "$(dirname -- "$file")" && pwd -P)
  path=$folder/$(basename -- "$file")
  path=${path#"$root"/}
  allowed | grep -q "^$path " && continue
  LC_ALL=C awk -v shown="$path" "$check" "$file" || status=1
done
IFS=$old_ifs
exit $status
