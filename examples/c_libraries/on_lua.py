"""Lua: the port is what ``lua_newstate`` is given. A refused script ends with LUA_ERRMEM; its state goes on."""

from __future__ import annotations

from typing import Any

from common import Binding, Denied, Library, Wrong, check

BINDING = Binding(
    name="lua",
    package="liblua5.4-dev",
    header="lua5.4/lua.h",
    library="lua5.4",
    source="""
        #include <lua5.4/lauxlib.h>
        #include <lua5.4/lualib.h>
        static int open_libraries(lua_State *state) { luaL_openlibs(state); return 0; }
    """,
    cdef="""
        #define LUA_OK ...
        #define LUA_ERRMEM ...
        #define LUA_GCCOUNT ...
        #define LUA_GCCOUNTB ...
        typedef struct lua_State lua_State;
        typedef long long lua_Integer;
        lua_State *lua_newstate(void *(*alloc)(void *, void *, size_t, size_t), void *ud);
        void lua_close(lua_State *);
        void lua_pushcfunction(lua_State *, int (*function)(lua_State *));
        void lua_pushinteger(lua_State *, lua_Integer);
        int luaL_loadbufferx(lua_State *, const char *text, size_t size, const char *name, const char *mode);
        int lua_pcall(lua_State *, int arguments, int results, int handler);
        const char *lua_tolstring(lua_State *, int index, size_t *size);
        void lua_settop(lua_State *, int index);
        int lua_gc(lua_State *, int what, ...);
        int open_libraries(lua_State *);
    """,
)

SCRIPT = b"""
local count = ...
local rows = {}
for i = 1, count do
  rows[i] = {id = i, name = ("item %d"):format(i), value = i * 7919 % 1000}
end
table.sort(rows, function(a, b)
  if a.value ~= b.value then return a.value < b.value end
  return a.id < b.id
end)
local names = {}
for i, row in ipairs(rows) do names[i] = row.name end
kept = rows
return table.concat(names, ",")
"""


def sorted_names(count: int) -> bytes:
    rows = sorted((i * 7919 % 1000, i) for i in range(1, count + 1))
    return ",".join(f"item {i}" for _, i in rows).encode()


class Lua(Library):
    name = "lua"
    binding = BINDING
    limit = 2 << 20
    little, fits, too_much = 20, 4_000, 40_000
    no_memory = "LUA_ERRMEM"

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self.state = self.lib.lua_newstate(*port.lua)
        if self.state == self.ffi.NULL:
            raise Denied(self.no_memory)
        try:
            # What allocates and may fail is called within lua_pcall only: elsewhere Lua ends the process.
            self.lib.lua_pushcfunction(self.state, self.ffi.addressof(self.lib, "open_libraries"))
            self.call(0, 0)
        except Denied:
            self.close()
            raise

    def work(self, amount: int) -> str:
        names = self.run(SCRIPT, amount)
        check(names == sorted_names(amount), "lua: the script's result is not right")
        self.check_count()
        return f"{amount:,} rows, sorted"

    def answer(self) -> None:
        text = self.run(b"return ('%d'):rep(2):format(..., 42)", 7)
        check(text == b"742", "lua: a small script's result is not right")
        self.check_count()

    def check_count(self) -> None:
        """Blocks in a heap are somewhat larger than what was asked for; elsewhere Lua and the port agree."""
        kib, rest = (self.lib.lua_gc(self.state, what) for what in (self.lib.LUA_GCCOUNT, self.lib.LUA_GCCOUNTB))
        has, taken = kib * 1024 + rest, self.taken()
        check(has <= taken if self.in_heap() else has == taken, f"lua: counts {has} bytes, and the port {taken}")

    def run(self, script: bytes, argument: int) -> bytes:
        """The string that a script returns."""
        try:
            self.judge(self.lib.luaL_loadbufferx(self.state, script, len(script), b"=script", b"t"))
            self.lib.lua_pushinteger(self.state, argument)
            self.call(1, 1)
            size = self.ffi.new("size_t *")
            text = self.lib.lua_tolstring(self.state, -1, size)  # it is a string: nothing is allocated
            return bytes(self.ffi.buffer(text, size[0]))
        finally:
            self.lib.lua_settop(self.state, 0)

    def call(self, arguments: int, results: int) -> None:
        self.judge(self.lib.lua_pcall(self.state, arguments, results, 0))

    def judge(self, code: int) -> None:
        if code == self.lib.LUA_ERRMEM:
            raise Denied(self.no_memory)
        if code != self.lib.LUA_OK:
            message = self.lib.lua_tolstring(self.state, -1, self.ffi.NULL)
            raise Wrong(f"lua: {self.ffi.string(message).decode()}")

    def close(self) -> None:
        self.lib.lua_close(self.state)
