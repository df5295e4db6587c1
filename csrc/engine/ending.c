/* The end of a program under `nativemem run`: what is said of it, and the exit code, which only exit() itself tells:
 * by then the interpreter has ended, so nothing here that runs at exit may use it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "engine/ending.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef __GLIBC__ /* others have no on_exit */
#define CAN_WATCH 1
#else
#define CAN_WATCH 0
#endif

static struct {
    bool watched;
    pid_t pid;     /* a child made by fork has the handler, too */
    int over;      /* the exit code that stands for a failure, 1, of this program; 0: none does */
    int fd;        /* where the exit code is to be written; -1: nowhere */
    off_t at;
    int width;     /* of the field that is there */
} ending = {.fd = -1};

#if CAN_WATCH
static void ending_at_exit(int status, void *unused) {
    (void)unused;
    if (ending.pid != getpid()) return;
    bool is_over = status == EXIT_FAILURE && ending.over != 0;
    int code = is_over ? ending.over : status & 0xff;
    if (ending.fd >= 0) {
        char field[16];
        int n = snprintf(field, sizeof field, "%-*d", ending.width, code);
        /* a disk that is full by now leaves what was there */
        if (n > 0 && n < (int)sizeof field) (void)!pwrite(ending.fd, field, (size_t)n, ending.at);
    }
    if (is_over) {
        (void)fflush(NULL);
        _exit(code);
    }
}
#endif

/* Looks at the exit code from now on. Pre: early, so that the other handlers of exit() run before. False: it cannot. */
static PyObject *ending_watch(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
#if CAN_WATCH
    if (!ending.watched) ending.watched = on_exit(ending_at_exit, NULL) == 0;
#endif
    ending.pid = getpid();
    return PyBool_FromLong(ending.watched);
}

/* What is done with the exit code: (over, fd, at, width). Keeps fd, which is -1 for none, open to the end. */
static PyObject *ending_plan(PyObject *module, PyObject *args) {
    (void)module;
    int over, fd, width;
    long long at;
    if (!PyArg_ParseTuple(args, "iiLi", &over, &fd, &at, &width)) return NULL;
    ending.over = over;
    ending.fd = fd;
    ending.at = (off_t)at;
    ending.width = width < 8 ? width : 8;
    Py_RETURN_NONE;
}

int nm__ending_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"ending_watch", ending_watch, METH_NOARGS, "Looks at the process's exit code from now on. False: it cannot."},
        {"ending_plan", ending_plan, METH_VARARGS, "What is done with the exit code: (over, fd, at, width)."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
