#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for dladdr and the registers of a context */
#endif
#include "engine/crash.h" /* first: Python.h wants to be */

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/base.h"

#if defined(__has_include)
#if __has_include(<execinfo.h>)
#include <execinfo.h>
#define CRASH_SEES_C
#endif
#endif

/* Bytes of the stack that the handlers run on: the unwinder, the loader's names, and faulthandler after them. */
#define CRASH_STACK ((size_t)256 << 10)

/* Bytes of the outermost function's code, at most. */
#define CRASH_OUTERMOST ((uintptr_t)256)

static const int crash_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
enum { CRASH_SIGNALS = sizeof crash_signals / sizeof *crash_signals };

static struct {
    nm__crash_report *report;
    uintptr_t outermost;
    struct sigaction before[CRASH_SIGNALS];
    volatile sig_atomic_t entered;
} crash;

/* Frames between backtrace and what asks. */
#define CRASH_OWN_FRAMES 4

__attribute__((noinline)) int nm__crash_unwind(void **frames, int most) {
#ifdef CRASH_SEES_C
    void *all[NM__CRASH_FRAMES + CRASH_OWN_FRAMES];
    int count = backtrace(all, (most < NM__CRASH_FRAMES ? most : NM__CRASH_FRAMES) + CRASH_OWN_FRAMES), start = 0;
    while (start < count && all[start] != __builtin_return_address(0)) start++;
    if (start == count) return 0;
    count = count - start < most ? count - start : most;
    memcpy(frames, all + start, (size_t)count * sizeof *frames);
    return count;
#else
    (void)frames;
    (void)most;
    return 0;
#endif
}

void nm__crash_describe(nm__crash_stack *stack, bool first_is_exact) {
    size_t used = 0;
    for (int64_t i = 0; i < stack->count && used + 1 < sizeof stack->text; i++) {
        uintptr_t address = (uintptr_t)stack->addresses[i];
        /* a return address may be the next function's first */
        uintptr_t call = i == 0 && first_is_exact ? address : address - 1;
        Dl_info info;
        int n;
        if (dladdr((const void *)call, &info) == 0 || info.dli_fname == NULL)
            n = snprintf(stack->text + used, sizeof stack->text - used, "?\t%zx\t\t0\n", (size_t)call);
        else
            n = snprintf(stack->text + used, sizeof stack->text - used, "%s\t%zx\t%s\t%zx\n", info.dli_fname,
                         (size_t)(call - (uintptr_t)info.dli_fbase), info.dli_sname == NULL ? "" : info.dli_sname,
                         info.dli_sname == NULL ? 0 : (size_t)(call - (uintptr_t)info.dli_saddr));
        if (n < 0 || (size_t)n >= sizeof stack->text - used) break;
        used += (size_t)n;
    }
    stack->text[used] = 0;
}

/* Where the signal met the thread; 0: not known for this machine. *back: where it was called from, as far as the top of its
 * stack says so, which holds for a call of what is no code. */
static uintptr_t crash_place(const void *context, uintptr_t *back) {
    const ucontext_t *c = context;
    *back = 0;
#if defined(__x86_64__) && defined(__linux__)
    const void *top = (const void *)(uintptr_t)c->uc_mcontext.gregs[REG_RSP];
    if (nm__os_is_readable(top, sizeof *back)) memcpy(back, top, sizeof *back);
    return (uintptr_t)c->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__) && defined(__linux__)
    *back = (uintptr_t)c->uc_mcontext.regs[30];
    return (uintptr_t)c->uc_mcontext.pc;
#else
    (void)c;
    return 0;
#endif
}

static void crash_note(int number, const siginfo_t *info, const void *context) {
    nm__crash_report *r = crash.report;
    uintptr_t back, place = crash_place(context, &back);
    r->signal = number;
    r->code = info->si_code;
    r->address = (uintptr_t)info->si_addr;
    r->end.addresses[0] = place;
    r->end.addresses[1] = back;
    r->end.count = place == 0 ? 0 : 2; /* what is known if the unwinder fails */
    void *frames[NM__CRASH_FRAMES];
    int count = nm__crash_unwind(frames, NM__CRASH_FRAMES), start = 0;
    while (start < count && (uintptr_t)frames[start] != place) start++;
    if (start < count) {
        count = start + nm__crash_within(frames + start, count - start);
        r->end.count = count - start;
        for (int i = start; i < count; i++) r->end.addresses[i - start] = (uintptr_t)frames[i];
    }
    nm__crash_describe(&r->end, true);
    nm__crash_describe(&r->refusal, false);
}

static void crash_met(int number, siginfo_t *info, void *context) {
    struct sigaction *before = NULL;
    for (int i = 0; i < CRASH_SIGNALS; i++)
        if (crash_signals[i] == number) before = &crash.before[i];
    if (crash.entered++ == 0) crash_note(number, info, context);
    if ((before->sa_flags & SA_SIGINFO) != 0) {
        before->sa_sigaction(number, info, context);
    } else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
        before->sa_handler(number);
    }
    struct sigaction plain = {.sa_handler = SIG_DFL};
    (void)sigaction(number, &plain, NULL);
    (void)raise(number);
}

int nm__crash_within(void *const *frames, int count) {
    for (int i = 0; i < count; i++)
        if ((uintptr_t)frames[i] - crash.outermost < CRASH_OUTERMOST) return i;
    return count;
}

bool nm__crash_watch(nm__crash_report *report, const void *outermost) {
    void *memory = mmap(NULL, CRASH_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    stack_t stack = {.ss_sp = memory, .ss_size = CRASH_STACK};
    if (sigaltstack(&stack, NULL) != 0) return false;
    crash.report = report;
    crash.outermost = (uintptr_t)outermost;
    struct sigaction action = {.sa_sigaction = crash_met, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    for (int i = 0; i < CRASH_SIGNALS; i++) {
        struct sigaction there;
        if (sigaction(crash_signals[i], NULL, &there) != 0) return false;
        if ((there.sa_flags & SA_SIGINFO) != 0 && there.sa_sigaction == crash_met) continue;
        crash.before[i] = there;
        if (sigaction(crash_signals[i], &action, NULL) != 0) return false;
    }
    return true;
}
