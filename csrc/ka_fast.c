/* kafka_async._fast: the common send and, in ka_rows.c, the common poll without a line of Python, and what it takes to
 * own native objects safely.
 *
 * A method that is decorated with fast() stays what it was, but for calls of the form producer.send(value) with
 * value of type bytes: they go to ka_producer_send() at once. What that refuses, and every other form, is the
 * decorated function's. Of the time of such a call, Python's frame and cffi's conversions took three quarters.
 *
 * send_many() has the like for a list of nothing but bytes that finds room as a whole.
 *
 * Everything here runs with the GIL, which is never given away. */
#include "ka_fast.h"

#include <stddef.h>

#include "ka.h"

typedef int send_function(ka_producer *p, const char *value, int64_t value_len);
typedef int send_values_function(ka_producer *p, int32_t topic, const char *const *values,
                                 const int64_t *lens, int64_t count);

/* Sender, the base of the classes that have such a method. */
typedef struct {
    PyObject base;
    send_function *send; /* NULL: not attached, or being collected */
    send_values_function *send_values;
    ka_producer *native; /* borrowed from owner */
    PyObject *owner;     /* owned: cffi's object, which releases native at its end */
} sender;

/* _attach(owner, native, send, send_values): all but the first as addresses, since what cffi hands out is opaque. */
static PyObject *sender_attach(PyObject *self, PyObject *args)
{
    sender *s = (sender *)self;
    unsigned long long native, send, send_values;
    PyObject *owner;

    if (!PyArg_ParseTuple(args, "OKKK", &owner, &native, &send, &send_values))
        return NULL;
    Py_XSETREF(s->owner, Py_NewRef(owner));
    s->native = (ka_producer *)(uintptr_t)native;
    s->send = (send_function *)(uintptr_t)send;
    s->send_values = (send_values_function *)(uintptr_t)send_values;
    Py_RETURN_NONE;
}

/* Whether each is of type bytes; where they are and how long. */
static int locate(PyObject *const *items, Py_ssize_t count, const char **values, int64_t *lens)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_CheckExact(items[i]))
            return 0;
        values[i] = PyBytes_AS_STRING(items[i]);
        lens[i] = PyBytes_GET_SIZE(items[i]);
    }
    return 1;
}

/* _send_values(topic number, list or tuple): how many were accepted, all, or None: none, and send_many() has to look
 * closer. Nothing can fail once they are. */
static PyObject *sender_send_values(PyObject *self, PyObject *args)
{
    sender *s = (sender *)self;
    PyObject *sequence, *result;
    Py_ssize_t count;
    void *places;
    int topic, accepted;

    if (!PyArg_ParseTuple(args, "iO", &topic, &sequence))
        return NULL;
    if (!s->send || !(PyList_CheckExact(sequence) || PyTuple_CheckExact(sequence)) ||
        (count = PySequence_Fast_GET_SIZE(sequence)) < 1 || count > KA_VALUES)
        Py_RETURN_NONE;
    places = PyMem_Malloc((size_t)count * (sizeof(char *) + sizeof(int64_t)));
    result = PyLong_FromSsize_t(count);
    if (!places || !result) {
        PyMem_Free(places);
        Py_XDECREF(result);
        return PyErr_NoMemory();
    }
    int64_t *lens = places;
    const char **values = (const char **)(void *)(lens + count);
    accepted = locate(PySequence_Fast_ITEMS(sequence), count, values, lens) &&
               s->send_values(s->native, topic, values, lens, count) == KA_OK;
    PyMem_Free(places);
    if (accepted)
        return result;
    Py_DECREF(result);
    Py_RETURN_NONE;
}

/* Owner is not shown to the collector of cycles: it would have the native object released before the finalizers
 * of other objects in the cycle ran, which may call methods of this one. It refers to nothing that could refer back. */
static int sender_traverse(PyObject *self, visitproc visit, void *arg)
{
    (void)self, (void)visit, (void)arg;
    return 0;
}

/* Whoever comes to call a method of something that is being collected finds nothing freed. */
static int sender_clear(PyObject *self)
{
    ((sender *)self)->send = NULL;
    Py_CLEAR(((sender *)self)->owner);
    return 0;
}

static void sender_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    sender_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef sender_methods[] = {{"_attach", sender_attach, METH_VARARGS, NULL},
                                       {"_send_values", sender_send_values, METH_VARARGS, NULL},
                                       {0}};

static PyTypeObject sender_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "kafka_async._fast.Sender",
    .tp_basicsize = sizeof(sender),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_methods = sender_methods,
    .tp_traverse = sender_traverse,
    .tp_clear = sender_clear,
    .tp_dealloc = sender_dealloc,
    .tp_new = PyType_GenericNew,
};

/* What keep() returns: it keeps an object in the same way, for classes that have no short cut. */
typedef struct {
    PyObject base;
    PyObject *kept; /* owned */
} keeper;

static void keeper_dealloc(PyObject *self)
{
    Py_CLEAR(((keeper *)self)->kept);
    Py_TYPE(self)->tp_free(self);
}

static PyTypeObject keeper_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "kafka_async._fast.Keeper",
    .tp_basicsize = sizeof(keeper),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = keeper_dealloc,
};

static PyObject *keep(PyObject *module, PyObject *object)
{
    keeper *k = PyObject_New(keeper, &keeper_type);

    (void)module;
    if (k)
        k->kept = Py_NewRef(object);
    return (PyObject *)k;
}

static PyObject *method_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) == 2 && !names && PyBytes_CheckExact(args[1]) &&
        PyObject_TypeCheck(args[0], &sender_type)) {
        const sender *s = (sender *)args[0];
        if (s->send &&
            s->send(s->native, PyBytes_AS_STRING(args[1]), PyBytes_GET_SIZE(args[1])) >= 0)
            Py_RETURN_NONE;
    }
    return PyObject_Vectorcall(((kai_method *)self)->function, args, flags, names);
}

static PyObject *method_get(PyObject *self, PyObject *object, PyObject *type)
{
    (void)type;
    return object ? PyMethod_New(self, object) : Py_NewRef(self);
}

static int method_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((kai_method *)self)->function);
    Py_VISIT(((kai_method *)self)->dict);
    return 0;
}

static int method_clear(PyObject *self)
{
    Py_CLEAR(((kai_method *)self)->function);
    Py_CLEAR(((kai_method *)self)->dict);
    return 0;
}

static void method_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    method_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyGetSetDef method_attributes[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL}, {0}};

static PyTypeObject method_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "kafka_async._fast.Method",
    .tp_basicsize = sizeof(kai_method),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                Py_TPFLAGS_METHOD_DESCRIPTOR, /* no bound method is made for a call */
    .tp_vectorcall_offset = offsetof(kai_method, call),
    .tp_call = PyVectorcall_Call,
    .tp_descr_get = method_get,
    .tp_traverse = method_traverse,
    .tp_clear = method_clear,
    .tp_dealloc = method_dealloc,
    .tp_getset = method_attributes,
    .tp_dictoffset = offsetof(kai_method, dict),
};

PyObject *kai_method_new(PyObject *function, vectorcallfunc call)
{
    kai_method *m = PyObject_GC_New(kai_method, &method_type);

    if (!m)
        return NULL;
    m->call = call;
    m->function = Py_NewRef(function);
    m->dict = NULL;
    PyObject_GC_Track((PyObject *)m);
    return (PyObject *)m;
}

static PyObject *fast(PyObject *module, PyObject *function)
{
    (void)module;
    return kai_method_new(function, method_call);
}

static PyMethodDef functions[] = {{"fast", fast, METH_O, NULL},
                                  {"fast_poll", kai_fast_poll, METH_O, NULL},
                                  {"keep", keep, METH_O, NULL},
                                  {"cut", kai_cut, METH_VARARGS, NULL},
                                  {"name_fields", kai_name_fields, METH_VARARGS, NULL},
                                  {0}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "kafka_async._fast",
                                        .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__fast(void)
{
    PyObject *module;

    if (PyType_Ready(&sender_type) < 0 || PyType_Ready(&keeper_type) < 0 ||
        PyType_Ready(&method_type) < 0)
        return NULL;
    module = PyModule_Create(&definition);
    if (module && (PyModule_AddObjectRef(module, "Sender", (PyObject *)&sender_type) < 0 ||
                   kai_rows_ready(module) < 0))
        Py_CLEAR(module);
    return module;
}
