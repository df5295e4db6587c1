/* Included before all else in the C files of a wheel (scripts/dist.py): what the core calls of glibc has the version that
 * glibc 2.28 has it in, whatever glibc the wheel is built with. In 2.34 the functions of libpthread and libdl went into
 * libc as new versions; the old ones are there still, and are the same functions. A function that is missing below gives
 * the wheel a later tag, which dist.py refuses. */
#if defined(__linux__) && defined(__x86_64__) /* no header may come before Python's; the build is for glibc */
#define NM_OLD(function, version) __asm__(".symver " #function "," #function "@GLIBC_" #version)
NM_OLD(dladdr, 2.2.5);
NM_OLD(dlsym, 2.2.5);
NM_OLD(pthread_condattr_setclock, 2.3.3);
NM_OLD(pthread_create, 2.2.5);
NM_OLD(pthread_detach, 2.2.5);
NM_OLD(pthread_join, 2.2.5);
NM_OLD(pthread_key_create, 2.2.5);
NM_OLD(pthread_mutex_timedlock, 2.2.5);
NM_OLD(pthread_mutex_trylock, 2.2.5);
NM_OLD(pthread_once, 2.2.5);
NM_OLD(pthread_setspecific, 2.2.5);
NM_OLD(pthread_sigmask, 2.2.5);
#undef NM_OLD
#endif
