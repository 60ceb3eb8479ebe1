/* A stack machine over small tagged values. Tuples keep their members in one pool, dict members go to one list with the
 * number of their dict, so no value owns memory and nothing recurses. Every opcode costs at least a byte of input and
 * adds a bounded number of values, so memory is bounded by the pickle's size. */
#include "store/pickle.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

enum kind { NONE, BOOL, INT, TEXT, TUPLE, DICT, GLOBAL, STORAGE, TENSOR, MARK, UNSET };

struct value {
    enum kind kind;
    int count; /* TUPLE: members */
    int64_t number; /* BOOL, INT; TUPLE: first member; DICT, STORAGE, TENSOR: index; GLOBAL: index in globals */
    struct pickle_text text;
};

struct item {
    int64_t dict;
    struct value key, value;
};

/* A growing array of one kind of element. */
struct list {
    void *data;
    int64_t n, room;
    size_t element;
};

struct machine {
    const unsigned char *data;
    size_t n, at, op_at;
    const char *name;
    struct list stack, memo, members, items, storages, tensors;
    int64_t n_dicts;
    struct err *err;
};

enum { REBUILD, ORDERED_DICT, FIRST_STORAGE };

static const struct {
    const char *module, *name;
    enum dtype dtype;
    size_t bytes;
} globals[] = {
    [REBUILD] = { "torch._utils", "_rebuild_tensor_v2", DTYPE_N, 0 },
    [ORDERED_DICT] = { "collections", "OrderedDict", DTYPE_N, 0 },
    [FIRST_STORAGE] = { "torch", "FloatStorage", F32, 4 },
    { "torch", "HalfStorage", F16, 2 },
    { "torch", "BFloat16Storage", BF16, 2 },
    { "torch", "DoubleStorage", F64, 8 },
    { "torch", "IntStorage", I32, 4 },
    { "torch", "LongStorage", DTYPE_N, 8 },
    { "torch", "ShortStorage", DTYPE_N, 2 },
    { "torch", "CharStorage", DTYPE_N, 1 },
    { "torch", "ByteStorage", DTYPE_N, 1 },
    { "torch", "BoolStorage", DTYPE_N, 1 },
};

#define STRANGE_HINT                                                                                                   \
    "Only tensors saved as a plain state dict are read, and nothing in the file is run. Save it again with "           \
    "torch.save(model.state_dict(), ...), or as safetensors."

static int refuse(struct machine *m, const char *what)
{
    err_set(m->err, ERR_INPUT, "%s", what);
    err_where(m->err, "file \"%s\", byte %zu of data.pkl", m->name, m->op_at);
    err_hint(m->err, STRANGE_HINT);
    return -1;
}

static void *grow(struct machine *m, struct list *l)
{
    if (l->n == l->room) {
        const int64_t room = l->room ? 2 * l->room : 64;
        void *data = mem_resize(l->data, room, l->element, MEM_STORE, m->err);

        if (!data)
            return NULL;
        l->data = data;
        l->room = room;
    }
    return (char *)l->data + (size_t)l->n++ * l->element;
}

static int push(struct machine *m, struct value v)
{
    struct value *top = grow(m, &m->stack);

    if (!top)
        return -1;
    *top = v;
    return 0;
}

static struct value *stack_of(struct machine *m)
{
    return m->stack.data;
}

static int pop(struct machine *m, struct value *v)
{
    if (m->stack.n == 0 || stack_of(m)[m->stack.n - 1].kind == MARK)
        return refuse(m, "the pickle takes more from its stack than is there");
    *v = stack_of(m)[--m->stack.n];
    return 0;
}

/* The index above the topmost mark, which is removed by cutting the stack there. */
static int64_t find_mark(struct machine *m)
{
    int64_t i = m->stack.n;

    while (i > 0 && stack_of(m)[i - 1].kind != MARK)
        i--;
    return i > 0 ? i : refuse(m, "the pickle uses a mark that it did not set");
}

static const unsigned char *take(struct machine *m, size_t n)
{
    if (n > m->n - m->at) {
        refuse(m, "the pickle ends inside an opcode");
        return NULL;
    }
    m->at += n;
    return m->data + m->at - n;
}

static int take_number(struct machine *m, int n_bytes, uint64_t *out)
{
    const unsigned char *p = take(m, (size_t)n_bytes);

    *out = 0;
    for (int i = 0; p && i < n_bytes; i++)
        *out |= (uint64_t)p[i] << (8 * i);
    return p ? 0 : -1;
}

static int push_number(struct machine *m, int n_bytes)
{
    uint64_t u;

    if (take_number(m, n_bytes, &u) != 0)
        return -1;
    return push(m, (struct value){ .kind = INT, .number = n_bytes == 4 ? (int64_t)(int32_t)u : (int64_t)u });
}

/* LONG1: two's complement of 0 to 8 bytes. */
static int push_long(struct machine *m)
{
    uint64_t length, u;

    if (take_number(m, 1, &length) != 0)
        return -1;
    if (length > 8)
        return refuse(m, "the pickle holds an integer of more than 64 bits");
    if (take_number(m, (int)length, &u) != 0)
        return -1;
    if (length > 0 && length < 8 && u >> (8 * length - 1))
        u |= UINT64_MAX << (8 * length);
    return push(m, (struct value){ .kind = INT, .number = (int64_t)u });
}

static int push_text(struct machine *m)
{
    uint64_t length;

    if (take_number(m, 4, &length) != 0)
        return -1;
    const unsigned char *p = take(m, (size_t)length);
    if (!p)
        return -1;
    if (length > 4096)
        return refuse(m, "the pickle holds a string of more than 4096 bytes");
    return push(m, (struct value){ .kind = TEXT, .text = { (const char *)p, (int)length } });
}

static bool text_is(struct pickle_text t, const char *s)
{
    return (size_t)t.n == strlen(s) && memcmp(t.at, s, (size_t)t.n) == 0;
}

static int take_line(struct machine *m, struct pickle_text *line)
{
    const unsigned char *start = m->data + m->at;
    const unsigned char *end = memchr(start, '\n', m->n - m->at);

    if (!end || end - start > 256)
        return refuse(m, "the pickle names a global without an end");
    *line = (struct pickle_text){ (const char *)start, (int)(end - start) };
    m->at += (size_t)(end - start) + 1;
    return 0;
}

static int push_global(struct machine *m)
{
    struct pickle_text module = { 0 }, name = { 0 };
    char text[600], safe[600];

    if (take_line(m, &module) != 0 || take_line(m, &name) != 0)
        return -1;
    for (int i = 0; i < COUNT_OF(globals); i++)
        if (text_is(module, globals[i].module) && text_is(name, globals[i].name))
            return push(m, (struct value){ .kind = GLOBAL, .number = i });
    snprintf(text, sizeof text, "%.*s.%.*s", module.n, module.at, name.n, name.at);
    log_safe(safe, sizeof safe, text);
    snprintf(text, sizeof text, "the pickle asks for \"%.500s\", which has no place in a state dict", safe);
    return refuse(m, text);
}

static int memo_put(struct machine *m, uint64_t index)
{
    if (m->stack.n == 0 || stack_of(m)[m->stack.n - 1].kind == MARK)
        return refuse(m, "the pickle remembers a value that is not there");
    if (index > m->n) /* every entry costs two bytes at least */
        return refuse(m, "the pickle's memo has holes");
    while ((uint64_t)m->memo.n <= index) {
        struct value *v = grow(m, &m->memo);
        if (!v)
            return -1;
        *v = (struct value){ .kind = UNSET };
    }
    ((struct value *)m->memo.data)[index] = stack_of(m)[m->stack.n - 1];
    return 0;
}

static int memo_get(struct machine *m, uint64_t index)
{
    if (index >= (uint64_t)m->memo.n || ((struct value *)m->memo.data)[index].kind == UNSET)
        return refuse(m, "the pickle recalls a value that it did not remember");
    return push(m, ((struct value *)m->memo.data)[index]);
}

static int memo_op(struct machine *m, int n_bytes, int (*op)(struct machine *m, uint64_t index))
{
    uint64_t index;

    return take_number(m, n_bytes, &index) != 0 ? -1 : op(m, index);
}

/* The values from index `from` of the stack become one tuple. */
static int make_tuple(struct machine *m, int64_t from, int64_t cut)
{
    struct value tuple = { .kind = TUPLE, .number = m->members.n, .count = (int)(m->stack.n - from) };

    for (int64_t i = from; i < m->stack.n; i++) {
        struct value *member = grow(m, &m->members);
        if (!member)
            return -1;
        *member = stack_of(m)[i];
    }
    m->stack.n = cut;
    return push(m, tuple);
}

static int tuple_of(struct machine *m, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (i >= m->stack.n || stack_of(m)[m->stack.n - 1 - i].kind == MARK)
            return refuse(m, "the pickle takes more from its stack than is there");
    return make_tuple(m, m->stack.n - count, m->stack.n - count);
}

static int tuple_to_mark(struct machine *m)
{
    const int64_t from = find_mark(m);

    return from < 0 ? -1 : make_tuple(m, from, from - 1);
}

static const struct value *member(const struct machine *m, const struct value *tuple, int i)
{
    return (const struct value *)m->members.data + tuple->number + i;
}

static int push_dict(struct machine *m)
{
    return push(m, (struct value){ .kind = DICT, .number = m->n_dicts++ });
}

static int add_items(struct machine *m, int64_t from, int64_t cut)
{
    if ((m->stack.n - from) % 2 != 0 || cut < 1 || stack_of(m)[cut - 1].kind != DICT)
        return refuse(m, "the pickle adds members to what is not a dict");
    for (int64_t i = from; i < m->stack.n; i += 2) {
        struct item *item = grow(m, &m->items);
        if (!item)
            return -1;
        *item = (struct item){ stack_of(m)[cut - 1].number, stack_of(m)[i], stack_of(m)[i + 1] };
    }
    m->stack.n = cut;
    return 0;
}

static int set_item(struct machine *m)
{
    struct value key, value;

    if (pop(m, &value) != 0 || pop(m, &key) != 0)
        return -1;
    m->stack.n += 2; /* they are still there: checked only */
    return add_items(m, m->stack.n - 2, m->stack.n - 2);
}

static int set_items(struct machine *m)
{
    const int64_t from = find_mark(m);

    return from < 0 ? -1 : add_items(m, from, from - 1);
}

static bool is_key(struct pickle_text t)
{
    bool digits = t.n > 0 && t.n <= 9;

    for (int i = 0; digits && i < t.n; i++)
        digits = t.at[i] >= '0' && t.at[i] <= '9';
    return digits;
}

/* ('storage', torch.FloatStorage, '17', 'cpu', 1024) */
static int push_storage(struct machine *m)
{
    struct value id = { 0 };

    if (pop(m, &id) != 0)
        return -1;
    if (id.kind != TUPLE || id.count != 5)
        return refuse(m, "a persistent id is not the tuple of five that PyTorch writes");
    const struct value *word = member(m, &id, 0), *type = member(m, &id, 1), *key = member(m, &id, 2),
                       *count = member(m, &id, 4);
    if (word->kind != TEXT || !text_is(word->text, "storage") || type->kind != GLOBAL || type->number < FIRST_STORAGE ||
        key->kind != TEXT || count->kind != INT || count->number < 0)
        return refuse(m, "a persistent id does not describe a storage");
    if (!is_key(key->text))
        return refuse(m, "a storage's key is not a number");
    struct pickle_storage *s = grow(m, &m->storages);
    if (!s)
        return -1;
    *s = (struct pickle_storage){ .key = key->text,
                                  .dtype = globals[type->number].dtype,
                                  .element_bytes = globals[type->number].bytes,
                                  .count = count->number };
    if (s->dtype == DTYPE_N)
        s->unsupported = globals[type->number].name;
    return push(m, (struct value){ .kind = STORAGE, .number = m->storages.n - 1 });
}

static int extents(struct machine *m, const struct value *tuple, struct shape *out)
{
    if (tuple->kind != TUPLE || tuple->count > SHAPE_MAX)
        return refuse(m, "a tensor's shape is not a tuple of at most 6 numbers");
    out->rank = tuple->count;
    for (int i = 0; i < tuple->count; i++) {
        if (member(m, tuple, i)->kind != INT || member(m, tuple, i)->number < 0)
            return refuse(m, "a tensor's shape or stride is not a whole number from 0");
        out->dim[i] = member(m, tuple, i)->number;
    }
    return 0;
}

/* (storage, offset, shape, strides, requires_grad, hooks) */
static int push_tensor(struct machine *m, const struct value *args)
{
    if (args->count != 6 || member(m, args, 0)->kind != STORAGE || member(m, args, 1)->kind != INT ||
        member(m, args, 1)->number < 0 || member(m, args, 4)->kind != BOOL || member(m, args, 5)->kind != DICT)
        return refuse(m, "a tensor is not made of storage, offset, shape, strides, a flag and hooks");
    struct pickle_tensor *t = grow(m, &m->tensors);
    if (!t)
        return -1;
    *t = (struct pickle_tensor){ .storage = (int)member(m, args, 0)->number, .offset = member(m, args, 1)->number };
    if (extents(m, member(m, args, 2), &t->shape) != 0 || extents(m, member(m, args, 3), &t->strides) != 0)
        return -1;
    if (t->shape.rank != t->strides.rank)
        return refuse(m, "a tensor has not one stride for each extent");
    return push(m, (struct value){ .kind = TENSOR, .number = m->tensors.n - 1 });
}

static int call(struct machine *m)
{
    struct value args = { 0 }, callee = { 0 };

    if (pop(m, &args) != 0 || pop(m, &callee) != 0)
        return -1;
    if (callee.kind == GLOBAL && args.kind == TUPLE) {
        if (callee.number == REBUILD)
            return push_tensor(m, &args);
        if (callee.number == ORDERED_DICT && args.count == 0)
            return push_dict(m);
    }
    return refuse(m, "the pickle calls what cannot be called");
}

/* BUILD gives a dict its attributes: state_dict's _metadata, the versions of modules. */
static int drop_attributes(struct machine *m)
{
    struct value state = { 0 };

    if (pop(m, &state) != 0)
        return -1;
    if (state.kind != DICT || m->stack.n == 0 || stack_of(m)[m->stack.n - 1].kind != DICT)
        return refuse(m, "the pickle sets attributes of what is not a dict");
    return 0;
}

static int unknown_opcode(struct machine *m, int op)
{
    char text[96];

    snprintf(text, sizeof text, "the pickle has opcode 0x%02x%s%c%s, which has no place in a state dict", (unsigned)op,
             op > ' ' && op < 127 ? " ('" : "", op > ' ' && op < 127 ? op : ' ', op > ' ' && op < 127 ? "')" : "");
    return refuse(m, text);
}

static int check_protocol(struct machine *m)
{
    const unsigned char *version = take(m, 1);
    char text[80];

    if (!version)
        return -1;
    if (*version == 2)
        return 0;
    snprintf(text, sizeof text, "the pickle has protocol %u, PyTorch writes 2", (unsigned)*version);
    return refuse(m, text);
}

static int step(struct machine *m, int op)
{
    switch (op) {
    case 0x80:
        return check_protocol(m);
    case '}':
        return push_dict(m);
    case ')':
        return tuple_of(m, 0);
    case '(':
        return push(m, (struct value){ .kind = MARK });
    case 't':
        return tuple_to_mark(m);
    case 0x85:
    case 0x86:
    case 0x87:
        return tuple_of(m, op - 0x84);
    case 'X':
        return push_text(m);
    case 'K':
        return push_number(m, 1);
    case 'M':
        return push_number(m, 2);
    case 'J':
        return push_number(m, 4);
    case 0x8a:
        return push_long(m);
    case 0x88:
    case 0x89:
        return push(m, (struct value){ .kind = BOOL, .number = op == 0x88 });
    case 'N':
        return push(m, (struct value){ .kind = NONE });
    case 'c':
        return push_global(m);
    case 'q':
        return memo_op(m, 1, memo_put);
    case 'r':
        return memo_op(m, 4, memo_put);
    case 'h':
        return memo_op(m, 1, memo_get);
    case 'j':
        return memo_op(m, 4, memo_get);
    case 'Q':
        return push_storage(m);
    case 'R':
        return call(m);
    case 's':
        return set_item(m);
    case 'u':
        return set_items(m);
    case 'b':
        return drop_attributes(m);
    default:
        return unknown_opcode(m, op);
    }
}

static int run(struct machine *m)
{
    for (;;) {
        m->op_at = m->at;
        const unsigned char *op = take(m, 1);
        if (!op)
            return -1;
        if (*op == '.')
            return 0;
        if (step(m, *op) != 0)
            return -1;
    }
}

static bool is_name(struct pickle_text t)
{
    json_t *utf8 = json_stringn(t.at, (size_t)t.n); /* NULL for anything else */
    const bool good = utf8 && !memchr(t.at, 0, (size_t)t.n);

    json_decref(utf8);
    return good;
}

/* The members of the dict that is left on the stack, each a named tensor. */
static int collect(struct machine *m, struct pickle *p)
{
    const struct item *items = m->items.data;
    struct value root = { 0 };

    if (pop(m, &root) != 0)
        return -1;
    if (root.kind != DICT || m->stack.n != 0)
        return refuse(m, "the pickle is not one dict");
    p->tensors = mem_array(m->items.n, 1, sizeof *p->tensors, MEM_STORE, m->err);
    if (!p->tensors)
        return -1;
    for (int64_t i = 0; i < m->items.n; i++) {
        if (items[i].dict != root.number)
            continue;
        if (items[i].key.kind != TEXT || items[i].value.kind != TENSOR)
            return refuse(m, "the dict holds something other than named tensors");
        if (!is_name(items[i].key.text))
            return refuse(m, "a tensor's name is not UTF-8 without zero bytes");
        p->tensors[p->n_tensors] = ((const struct pickle_tensor *)m->tensors.data)[items[i].value.number];
        p->tensors[p->n_tensors++].name = items[i].key.text;
    }
    return 0;
}

int pickle_parse(struct pickle *p, const unsigned char *data, size_t n, const char *name, struct err *err)
{
    struct machine m = { .data = data,
                         .n = n,
                         .name = name,
                         .stack.element = sizeof(struct value),
                         .memo.element = sizeof(struct value),
                         .members.element = sizeof(struct value),
                         .items.element = sizeof(struct item),
                         .storages.element = sizeof(struct pickle_storage),
                         .tensors.element = sizeof(struct pickle_tensor),
                         .err = err };

    *p = (struct pickle){ 0 };
    int result = run(&m);
    if (result == 0)
        result = collect(&m, p);
    p->storages = m.storages.data;
    p->n_storages = (int)m.storages.n;
    mem_free(m.stack.data);
    mem_free(m.memo.data);
    mem_free(m.members.data);
    mem_free(m.items.data);
    mem_free(m.tensors.data);
    if (result != 0)
        pickle_free(p);
    return result;
}

void pickle_free(struct pickle *p)
{
    mem_free(p->storages);
    mem_free(p->tensors);
    *p = (struct pickle){ 0 };
}
