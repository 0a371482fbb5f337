/* kafka_async._fast, the consumer's part: messages made of native columns, and the common poll without a line of Python.
 *
 * Everything here runs with the GIL, which is never given away; but an allocation may run a finalizer, and so anything. */
#include "ka_fast.h"

#include <structmember.h>

#include "ka.h"
#include "ka_columns.h"

static struct {
    PyTypeObject *message; /* a subclass of tuple, of eight fields */
    PyObject *timestamp_types;
} fields;

/* _name_fields(Message, names of the types of timestamps), once. */
PyObject *kai_name_fields(PyObject *module, PyObject *args)
{
    PyObject *message, *types;

    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &message, &PyTuple_Type, &types))
        return NULL;
    Py_XSETREF(fields.message, (PyTypeObject *)Py_NewRef(message));
    Py_XSETREF(fields.timestamp_types, Py_NewRef(types));
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- rows */

/* An iterator of messages. It holds what it reads; whoever made it sees to it that it is not written meanwhile. */
typedef struct {
    PyObject base;
    Py_buffer cells, payload;
    PyObject *topics; /* owned; a list of names by number */
    Py_ssize_t stride, next, end;
} rows;

static const int64_t *cell(const rows *r, int column, Py_ssize_t row)
{
    return (const int64_t *)r->cells.buf + column * r->stride + row;
}

/* A piece of the payload; None where it is absent. */
static PyObject *piece(const Py_buffer *payload, int64_t start, int64_t end)
{
    if (start < 0)
        Py_RETURN_NONE;
    if (end < start || end > payload->len) {
        PyErr_SetString(PyExc_SystemError, "a part of a message lies outside of its memory");
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)payload->buf + start, end - start);
}

static PyObject *part(const rows *r, int column, Py_ssize_t row)
{
    return piece(&r->payload, *cell(r, column, row), *cell(r, column + 1, row));
}

static PyObject *name(PyObject *table, int64_t number)
{
    Py_ssize_t size = PySequence_Fast_GET_SIZE(table);

    if (number < 0 || number >= size) {
        PyErr_SetString(PyExc_SystemError, "a number of a message has no name");
        return NULL;
    }
    return Py_NewRef(PySequence_Fast_GET_ITEM(table, number));
}

static PyObject *make_message(const rows *r, Py_ssize_t row)
{
    PyObject *message = fields.message->tp_alloc(fields.message, 8), **item;

    if (!message)
        return NULL;
    item = &PyTuple_GET_ITEM(message, 0);
    /* One after the other: those that follow a failure stay NULL, which a tuple may hold while it is nobody's. */
    if (!(item[0] = part(r, VALUE_AT, row)) || !(item[1] = part(r, KEY_AT, row)) ||
        !(item[2] = name(r->topics, *cell(r, TOPIC, row))) ||
        !(item[3] = PyLong_FromLongLong(*cell(r, PARTITION, row))) ||
        !(item[4] = PyLong_FromLongLong(*cell(r, OFFSET, row))) ||
        !(item[5] = PyLong_FromLongLong(*cell(r, TIMESTAMP_MS, row))) ||
        !(item[6] = name(fields.timestamp_types, *cell(r, TIMESTAMP_TYPE, row))) ||
        !(item[7] = part(r, HEADERS_AT, row)))
        Py_CLEAR(message);
    return message;
}

static PyObject *rows_next(PyObject *self)
{
    rows *r = (rows *)self;
    PyObject *message;

    if (r->next >= r->end)
        return NULL;
    message = make_message(r, r->next);
    r->next += message != NULL; /* one that could not be made comes again */
    return message;
}

static void rows_dealloc(PyObject *self)
{
    rows *r = (rows *)self;

    PyBuffer_Release(&r->cells);
    PyBuffer_Release(&r->payload);
    Py_CLEAR(r->topics);
    Py_TYPE(self)->tp_free(self);
}

/* Rows(cells, stride, start, count, payload, topics): cells holds KA_COLUMNS columns of int64, one every stride. */
static PyObject *rows_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    PyObject *cells, *payload, *topics;
    Py_ssize_t stride, start, count;
    rows *r;

    (void)names;
    if (!PyArg_ParseTuple(args, "OnnnOO!", &cells, &stride, &start, &count, &payload, &PyList_Type,
                          &topics) ||
        !(r = (rows *)type->tp_alloc(type, 0)))
        return NULL;
    r->topics = Py_NewRef(topics);
    if (PyObject_GetBuffer(cells, &r->cells, PyBUF_SIMPLE) < 0 ||
        PyObject_GetBuffer(payload, &r->payload, PyBUF_SIMPLE) < 0) {
        Py_DECREF(r);
        return NULL;
    }
    if (start < 0 || count < 0 || stride < 0 || start > stride - count ||
        r->cells.len / (Py_ssize_t)sizeof(int64_t) < KA_COLUMNS * stride) {
        Py_DECREF(r);
        PyErr_SetString(PyExc_ValueError, "the rows lie outside of the cells");
        return NULL;
    }
    r->stride = stride;
    r->next = start;
    r->end = start + count;
    return (PyObject *)r;
}

static PyTypeObject rows_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "kafka_async._fast.Rows",
    .tp_basicsize = sizeof(rows),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = rows_new,
    .tp_dealloc = rows_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = rows_next,
};

/* cut(starts, ends, payload): a list of pieces. */
PyObject *kai_cut(PyObject *module, PyObject *args)
{
    Py_buffer starts, ends, payload;
    PyObject *list = NULL, *bytes;

    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*y*", &starts, &ends, &payload))
        return NULL;
    if (starts.len == ends.len)
        list = PyList_New(starts.len / (Py_ssize_t)sizeof(int64_t));
    else
        PyErr_SetString(PyExc_ValueError, "as many starts as ends");
    for (Py_ssize_t i = 0; list && i < PyList_GET_SIZE(list); i++) {
        bytes = piece(&payload, ((const int64_t *)starts.buf)[i], ((const int64_t *)ends.buf)[i]);
        if (!bytes)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, bytes);
    }
    PyBuffer_Release(&starts);
    PyBuffer_Release(&ends);
    PyBuffer_Release(&payload);
    return list;
}

/* ---------------------------------------------------------------- poll */

/* Poller, the base of the classes whose method poll_message() has the short cut: what that shares with its function. */
typedef struct {
    PyObject base;
    PyObject *rows;   /* owned; polling while a thread polls */
    PyObject *poller; /* owned; who has the last message in hand */
    PyObject *caller; /* owned; tells who polls; NULL: there is no short cut */
    PyObject *polling;
    long long handed, generation;
    Py_buffer words; /* handed and generation as both sides see them */
} poller;

static PyMemberDef poller_members[] = {
    {"_rows", T_OBJECT_EX, offsetof(poller, rows), 0, NULL},
    {"_poller", T_OBJECT, offsetof(poller, poller), 0, NULL},
    {"_handed", T_LONGLONG, offsetof(poller, handed), 0, NULL},
    {"_generation", T_LONGLONG, offsetof(poller, generation), 0, NULL},
    {0}};

static void close_short_cut(poller *p)
{
    Py_CLEAR(p->caller);
    Py_CLEAR(p->polling);
    PyBuffer_Release(&p->words);
}

/* _shorten(words, polling, caller) opens the short cut; _shorten(None, None, None) closes it. */
static PyObject *poller_shorten(PyObject *self, PyObject *args)
{
    poller *p = (poller *)self;
    PyObject *words, *polling, *caller;

    if (!PyArg_ParseTuple(args, "OOO", &words, &polling, &caller))
        return NULL;
    close_short_cut(p);
    if (words == Py_None)
        Py_RETURN_NONE;
    if (PyObject_GetBuffer(words, &p->words, PyBUF_WRITABLE) < 0)
        return NULL;
    p->polling = Py_NewRef(polling);
    p->caller = Py_NewRef(caller);
    Py_RETURN_NONE;
}

static int poller_traverse(PyObject *self, visitproc visit, void *arg)
{
    const poller *p = (poller *)self;

    Py_VISIT(p->rows);
    Py_VISIT(p->poller);
    Py_VISIT(p->caller);
    return 0;
}

static int poller_clear(PyObject *self)
{
    poller *p = (poller *)self;

    close_short_cut(p);
    Py_CLEAR(p->rows);
    Py_CLEAR(p->poller);
    return 0;
}

static void poller_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    poller_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef poller_methods[] = {{"_shorten", poller_shorten, METH_VARARGS, NULL}, {0}};

static PyTypeObject poller_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "kafka_async._fast.Poller",
    .tp_basicsize = sizeof(poller),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_methods = poller_methods,
    .tp_members = poller_members,
    .tp_traverse = poller_traverse,
    .tp_clear = poller_clear,
    .tp_dealloc = poller_dealloc,
    .tp_new = PyType_GenericNew,
};

/* Count the message as handed out, unless the core says that it may be stale. The stores' and the load's order is the
 * contract with the core, "The block" in ka_consumer.h: a compiler has to keep it, and the core sees to processors. */
static int hand_out(poller *p)
{
    int64_t *words = p->words.buf;

    p->handed++;
    __atomic_store_n(&words[0], p->handed, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&words[1], __ATOMIC_RELAXED) == p->generation)
        return 1;
    p->handed--;
    return 0;
}

/* The next of the rows that are there, as the function does it. NULL without an exception: that has to look. */
static PyObject *poll_rows(poller *p)
{
    PyObject *message, *caller, *held = p->rows;
    rows *r = (rows *)held;

    if (!p->caller || !held || !Py_IS_TYPE(held, &rows_type) || r->next >= r->end)
        return NULL;
    p->rows = Py_NewRef(p->polling); /* who comes meanwhile is refused */
    message = make_message(r, r->next);
    caller = message ? PyObject_CallNoArgs(p->caller) : NULL;
    /* What a handler of a signal raises must come now, or after the return. */
    if (!caller || PyErr_CheckSignals() < 0) {
        Py_XDECREF(caller);
        Py_CLEAR(message);
    } else {
        Py_XSETREF(p->poller, caller);
        if (p->words.buf && hand_out(p))
            r->next++;
        else
            Py_CLEAR(message);
    }
    Py_XSETREF(p->rows, held);
    return message;
}

static PyObject *poll_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    PyObject *message;
    Py_ssize_t count = PyVectorcall_NARGS(flags);

    if ((count == 1 || count == 2) && !names && PyObject_TypeCheck(args[0], &poller_type)) {
        message = poll_rows((poller *)args[0]);
        if (message || PyErr_Occurred())
            return message;
    }
    return PyObject_Vectorcall(((kai_method *)self)->function, args, flags, names);
}

PyObject *kai_fast_poll(PyObject *module, PyObject *function)
{
    (void)module;
    return kai_method_new(function, poll_call);
}

int kai_rows_ready(PyObject *module)
{
    if (PyType_Ready(&rows_type) < 0 || PyType_Ready(&poller_type) < 0 ||
        PyModule_AddObjectRef(module, "Rows", (PyObject *)&rows_type) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "Poller", (PyObject *)&poller_type);
}
