/* Prelude of the module that cffi generates, with the rule of the GIL.
 *
 * cffi releases the GIL around every call. Beside a busy Python thread each release costs up to
 * the switch interval (5 ms), so a call that never waits must keep it. The generated wrapper of
 * ka_x is named _cffi_f_ka_x; the compiler folds the comparison of that name, so that each
 * wrapper is left with one of the two behaviours and no branch.
 */
#ifndef KA_CFFI_H
#define KA_CFFI_H

#include <string.h>

#include "ka.h"

#define KA_IS_WAIT (strncmp(__func__, "_cffi_f_ka_wait_", sizeof "_cffi_f_ka_wait_" - 1) == 0)

/* KA_GIL_FLIP names one function that gets the wrong rule, for a build that the tests of the rule
 * must refuse. */
#ifdef KA_GIL_FLIP
#define KA_MAY_WAIT (KA_IS_WAIT != (strcmp(__func__, "_cffi_f_" KA_GIL_FLIP) == 0))
#else
#define KA_MAY_WAIT KA_IS_WAIT
#endif

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS \
    {                          \
        PyThreadState *ka_saved = KA_MAY_WAIT ? PyEval_SaveThread() : NULL;
#define Py_END_ALLOW_THREADS            \
    if (KA_MAY_WAIT)                    \
        PyEval_RestoreThread(ka_saved); \
    }

/* No call reports by errno, so cffi need not carry it across. */
#undef _cffi_restore_errno
#undef _cffi_save_errno
#define _cffi_restore_errno() ((void)0)
#define _cffi_save_errno() ((void)0)

#endif
