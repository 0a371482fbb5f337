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

/* KA_GIL_RULE: 0 never release, 2 always release. Only for the tests that must see the rule
 * broken to be worth anything. */
#ifndef KA_GIL_RULE
#define KA_GIL_RULE 1
#endif

#if KA_GIL_RULE == 1
#define KA_MAY_WAIT (strncmp(__func__, "_cffi_f_ka_wait_", sizeof "_cffi_f_ka_wait_" - 1) == 0)
#else
#define KA_MAY_WAIT (KA_GIL_RULE == 2)
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

#endif
