/* What the sources of kafka_async._fast share. */
#ifndef KA_FAST_H
#define KA_FAST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* What fast() and fast_poll() return: calls `call`, which may leave the call to the function. */
typedef struct {
    PyObject base;
    vectorcallfunc call;
    PyObject *function; /* owned */
    PyObject *dict;     /* owned; __doc__ and the like */
} kai_method;

PyObject *kai_method_new(PyObject *function, vectorcallfunc call);

/* Rows and Poller; see ka_rows.c. 0, or -1 with an exception. */
int kai_rows_ready(PyObject *module);
PyObject *kai_fast_poll(PyObject *module, PyObject *function);
PyObject *kai_cut(PyObject *module, PyObject *args);
PyObject *kai_name_fields(PyObject *module, PyObject *args);

#endif
