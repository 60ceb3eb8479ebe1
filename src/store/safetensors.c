/* Reading: length and header are checked against the file's size, then each tensor alone (type, shape, offsets), then
 * all together: sorted by offset they must tile the data without a hole. Only then pointers are made. Writing: the same
 * header from the tensors' sizes, then their bytes in order. */
#include "store/safetensors.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#define HEADER_MAX ((uint64_t)100 << 20)
#define NAME_SHOWN 160

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are used as they lie in the file");

/* The legal types; those without a dtype of ours can be in a file but not be read. */
static const struct {
    const char *name;
    size_t bytes;
    enum dtype dtype;
} types[] = {
    { "F32", 4, F32 },         { "F16", 2, F16 },     { "BF16", 2, BF16 },       { "I32", 4, I32 },
    { "F64", 8, F64 },         { "I64", 8, DTYPE_N }, { "U64", 8, DTYPE_N },     { "U32", 4, DTYPE_N },
    { "I16", 2, DTYPE_N },     { "U16", 2, DTYPE_N }, { "I8", 1, DTYPE_N },      { "U8", 1, DTYPE_N },
    { "BOOL", 1, DTYPE_N },    { "C64", 8, DTYPE_N }, { "F8_E4M3", 1, DTYPE_N }, { "F8_E5M2", 1, DTYPE_N },
    { "F8_E8M0", 1, DTYPE_N },
};

struct entry {
    struct stored_tensor tensor;
    size_t begin, end;
};

static int damaged(struct err *err, const char *file, const char *tensor)
{
    char safe[NAME_SHOWN];

    if (tensor)
        err_where(err, "file \"%s\", tensor \"%s\"", file, log_safe(safe, sizeof safe, tensor));
    else
        err_where(err, "file \"%s\", header", file);
    return err_hint(err, "The file is damaged or cut short; copy, download or save it again.");
}

static int bad_length(struct err *err, const char *file, uint64_t length, size_t n)
{
    if (n < 10)
        err_set(err, ERR_INPUT, "%zu bytes are too few for a safetensors file", n);
    else
        err_set(err, ERR_INPUT, "the header's length is %" PRIu64 ", it can be 2 to %zu here", length,
                n - 8 < HEADER_MAX ? n - 8 : (size_t)HEADER_MAX);
    return damaged(err, file, NULL);
}

static json_t *read_header(const unsigned char *data, size_t n, const char *file, size_t *data_start, struct err *err)
{
    uint64_t length = 0;

    for (int i = 0; i < 8 && n >= 10; i++)
        length |= (uint64_t)data[i] << (8 * i);
    if (length < 2 || length > HEADER_MAX || length > n - 8) {
        bad_length(err, file, length, n);
        return NULL;
    }
    const char *text = (const char *)data + 8;
    size_t end = (size_t)length;
    while (end > 1 && text[end - 1] == ' ')
        end--;
    if (text[0] != '{' || text[end - 1] != '}') {
        err_set(err, ERR_INPUT, "the header is not a JSON object padded by spaces");
        damaged(err, file, NULL);
        return NULL;
    }
    *data_start = 8 + (size_t)length;
    return json_parse(text, end, file, 1, err);
}

static int check_metadata(const json_t *metadata, const char *file, struct err *err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata)) {
        err_set(err, ERR_INPUT, "__metadata__ is not an object");
        return damaged(err, file, NULL);
    }
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (!json_is_string(value)) {
            char safe[NAME_SHOWN];
            err_set(err, ERR_INPUT, "__metadata__ \"%s\" is not a string", log_safe(safe, sizeof safe, key));
            return damaged(err, file, NULL);
        }
    }
    return 0;
}

static int read_type(const json_t *value, struct stored_tensor *t, size_t *element, struct err *err)
{
    const char *name = json_string_value(value);
    char safe[40];

    if (!name)
        return err_set(err, ERR_INPUT, "dtype is missing or not a string");
    for (int i = 0; i < COUNT_OF(types); i++)
        if (strcmp(name, types[i].name) == 0) {
            t->dtype = types[i].dtype;
            t->unsupported = t->dtype == DTYPE_N ? types[i].name : NULL;
            *element = types[i].bytes;
            return 0;
        }
    return err_set(err, ERR_INPUT, "dtype \"%s\" is unknown", log_safe(safe, sizeof safe, name));
}

/* The product is checked even after a 0: an extent that does not fit is no extent. */
static int read_shape(const json_t *value, struct stored_tensor *t, size_t *count, struct err *err)
{
    const size_t rank = json_array_size(value);
    size_t product = 1;
    bool empty = false;

    if (!json_is_array(value))
        return err_set(err, ERR_INPUT, "shape is missing or not an array");
    for (size_t i = 0; i < rank; i++) {
        const json_t *extent = json_array_get(value, i);
        const json_int_t d = json_integer_value(extent);

        if (!json_is_integer(extent) || d < 0)
            return err_set(err, ERR_INPUT, "extent %zu of the shape is not a whole number from 0", i);
        if (d == 0)
            empty = true;
        else if (!mem_mul(product, (size_t)d, &product))
            return err_set(err, ERR_INPUT, "the shape's extents overflow when multiplied");
        if (i < SHAPE_MAX)
            t->shape.dim[i] = d;
    }
    if (rank > SHAPE_MAX) {
        t->unsupported = "more than 6 dimensions";
        t->dtype = DTYPE_N;
        t->shape = (struct shape){ 0 };
    } else {
        t->shape.rank = (int)rank;
    }
    *count = empty ? 0 : product;
    return 0;
}

static int read_offsets(const json_t *value, size_t data_bytes, struct entry *e, struct err *err)
{
    const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);

    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return err_set(err, ERR_INPUT, "data_offsets is not an array of two whole numbers");
    const json_int_t b = json_integer_value(begin), n = json_integer_value(end);
    if (b < 0 || n < b || (uint64_t)n > data_bytes)
        return err_set(err, ERR_INPUT, "data_offsets [%" PRId64 ",%" PRId64 "] do not lie inside the %zu bytes of data",
                       (int64_t)b, (int64_t)n, data_bytes);
    e->begin = (size_t)b;
    e->end = (size_t)n;
    return 0;
}

static int read_entry(const json_t *value, size_t data_bytes, struct entry *e, struct err *err)
{
    size_t element = 0, count = 0, bytes;

    if (!json_is_object(value))
        return err_set(err, ERR_INPUT, "its description is not an object");
    if (read_type(json_object_get(value, "dtype"), &e->tensor, &element, err) != 0 ||
        read_shape(json_object_get(value, "shape"), &e->tensor, &count, err) != 0 ||
        read_offsets(json_object_get(value, "data_offsets"), data_bytes, e, err) != 0)
        return -1;
    if (!mem_mul(count, element, &bytes))
        return err_set(err, ERR_INPUT, "the shape's extents overflow when multiplied");
    if (bytes != e->end - e->begin)
        return err_set(err, ERR_INPUT, "shape and dtype make %zu bytes, data_offsets %zu", bytes, e->end - e->begin);
    e->tensor.bytes = bytes;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int check_tiling(const struct entry *entries, int n, size_t data_bytes, const char *file, struct err *err)
{
    size_t at = 0;

    for (int i = 0; i < n; i++) {
        if (entries[i].begin != at) {
            err_set(err, ERR_INPUT, "data begins at %zu, which %s (%zu)", entries[i].begin,
                    entries[i].begin > at ? "leaves a hole after the one before" : "overlaps the one before", at);
            return damaged(err, file, entries[i].tensor.name);
        }
        at = entries[i].end;
    }
    if (at != data_bytes) {
        err_set(err, ERR_INPUT, "the tensors end at byte %zu of the data, the file at byte %zu", at, data_bytes);
        return damaged(err, file, NULL);
    }
    return 0;
}

/* Fills entries with their names still borrowed from the header. */
static int read_entries(const json_t *header, size_t data_bytes, struct entry *entries, int *n, const char *file,
                        struct err *err)
{
    const char *key;
    json_t *value;

    *n = 0;
    json_object_foreach((json_t *)header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            if (check_metadata(value, file, err) != 0)
                return -1;
            continue;
        }
        entries[*n].tensor.name = key;
        if (read_entry(value, data_bytes, &entries[*n], err) != 0)
            return damaged(err, file, key);
        (*n)++;
    }
    if (*n > 0)
        qsort(entries, (size_t)*n, sizeof *entries, by_offset);
    return check_tiling(entries, *n, data_bytes, file, err);
}

static int publish(struct safetensors *s, const struct entry *entries, int n, const unsigned char *data,
                   struct err *err)
{
    size_t length = 1, at = 0;

    for (int i = 0; i < n; i++)
        length += strlen(entries[i].tensor.name) + 1;
    s->names = mem_array((int64_t)length, 1, 1, MEM_STORE, err);
    s->tensors = s->names ? mem_array(n, 1, sizeof *s->tensors, MEM_STORE, err) : NULL;
    if (!s->tensors)
        return -1;
    for (int i = 0; i < n; i++) {
        const size_t bytes = strlen(entries[i].tensor.name) + 1;

        s->tensors[i] = entries[i].tensor;
        s->tensors[i].name = memcpy(s->names + at, entries[i].tensor.name, bytes);
        s->tensors[i].data = data + entries[i].begin;
        at += bytes;
    }
    s->n_tensors = n;
    return 0;
}

int safetensors_parse(struct safetensors *s, const unsigned char *data, size_t n, const char *name, struct err *err)
{
    size_t start = 0;
    int count = 0, result = -1;

    *s = (struct safetensors){ .map.slot = -1 };
    json_t *header = read_header(data, n, name, &start, err);
    if (!header)
        return -1;
    struct entry *entries = mem_array((int64_t)json_object_size(header), 1, sizeof *entries, MEM_STORE, err);
    if (entries && read_entries(header, n - start, entries, &count, name, err) == 0)
        result = publish(s, entries, count, data + start, err);
    mem_free(entries);
    json_decref(header);
    if (result != 0)
        safetensors_close(s);
    return result;
}

int safetensors_open(struct safetensors *s, const char *path, struct err *err)
{
    struct file_map map;

    *s = (struct safetensors){ .map.slot = -1 };
    if (file_map_open(&map, path, err) != 0)
        return -1;
    if (safetensors_parse(s, map.data, map.bytes, path, err) != 0) {
        file_map_close(&map);
        return -1;
    }
    s->map = map;
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    file_map_close(&s->map);
    mem_free(s->tensors);
    mem_free(s->names);
    *s = (struct safetensors){ .map.slot = -1 };
}

const struct stored_tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    for (int i = 0; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0)
            return &s->tensors[i];
    return NULL;
}

static const char *type_name(enum dtype dtype)
{
    for (int i = 0; i < COUNT_OF(types); i++)
        if (types[i].dtype == dtype)
            return types[i].name;
    MUST(!"a type that has a name in the file");
    return NULL;
}

static json_t *describe(const struct stored_tensor *t, size_t begin)
{
    json_t *shape = json_array();

    for (int i = 0; i < t->shape.rank; i++)
        json_array_append_new(shape, json_integer(t->shape.dim[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", type_name(t->dtype), "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)begin + (json_int_t)t->bytes);
}

/* The header's text, released by free; *total is the size of the data. */
static char *make_header(const struct stored_tensor *tensors, int n, size_t *total, struct err *err)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    size_t at = 0;
    char *text = NULL;
    int failed = header ? 0 : -1;

    for (int i = 0; i < n && failed == 0; i++) {
        const int64_t count = shape_count(&tensors[i].shape);

        MUST(count >= 0 && (size_t)count * dtype_bytes(tensors[i].dtype) == tensors[i].bytes);
        MUST(!json_object_get(header, tensors[i].name));
        failed = json_object_set_new(header, tensors[i].name, describe(&tensors[i], at));
        at += tensors[i].bytes;
    }
    if (failed == 0)
        text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    if (!text)
        err_set(err, ERR_MEMORY, "could not make the header of %d tensors", n);
    *total = at;
    return text;
}

static int check_space(const char *path, size_t bytes, struct err *err)
{
    const int64_t available = file_free_bytes(path, err);

    if (available < 0)
        return -1;
    if ((uint64_t)available < bytes) {
        err_set(err, ERR_SYSTEM, "\"%s\" needs %zu bytes, the file system has %" PRId64 " free", path, bytes,
                available);
        return err_hint(err, "Free some space, or choose another folder.");
    }
    return 0;
}

static int put(struct file_out *o, const void *data, size_t bytes, struct err *err)
{
    if (bytes > 0 && fwrite(data, 1, bytes, o->stream) != bytes)
        return err_errno(err, "could not write %zu bytes to \"%s\"", bytes, o->path);
    return 0;
}

static int put_header(struct file_out *o, const char *text, struct err *err)
{
    static const char spaces[] = "        ";
    const size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    unsigned char head[8];

    for (int i = 0; i < 8; i++)
        head[i] = (unsigned char)(padded >> (8 * i));
    if (put(o, head, sizeof head, err) != 0 || put(o, text, length, err) != 0)
        return -1;
    return put(o, spaces, padded - length, err);
}

static int put_produced(struct file_out *o, const struct stored_tensor *t, int i, const struct tensor_source *source,
                        void *buffer, struct err *err)
{
    const size_t element = dtype_bytes(t->dtype);
    const int64_t total = (int64_t)(t->bytes / element), chunk = (int64_t)(SAFETENSORS_PIECE / element);

    for (int64_t first = 0; first < total; first += chunk) {
        const int64_t count = total - first < chunk ? total - first : chunk;

        if (source->produce(source->context, i, first, count, buffer, err) != 0 ||
            put(o, buffer, (size_t)count * element, err) != 0)
            return -1;
    }
    return 0;
}

int safetensors_save_from(const char *path, const struct stored_tensor *tensors, int n,
                          const struct tensor_source *source, struct err *err)
{
    struct file_out out = { 0 };
    size_t total;
    void *buffer = NULL;
    int result = -1;
    char *header = make_header(tensors, n, &total, err);

    if (!header || check_space(path, total + strlen(header) + 16, err) != 0)
        goto done;
    if (source && !(buffer = mem_array((int64_t)SAFETENSORS_PIECE, 1, 1, MEM_STORE, err)))
        goto done;
    if (file_out_open(&out, path, err) != 0 || put_header(&out, header, err) != 0)
        goto done;
    for (int i = 0; i < n; i++) {
        MUST(tensors[i].data || source || tensors[i].bytes == 0);
        if (tensors[i].data ? put(&out, tensors[i].data, tensors[i].bytes, err) != 0
                            : tensors[i].bytes > 0 && put_produced(&out, &tensors[i], i, source, buffer, err) != 0)
            goto done;
    }
    result = file_out_commit(&out, err);
done:
    file_out_abort(&out);
    mem_free(buffer);
    free(header);
    return result;
}

int safetensors_save(const char *path, const struct stored_tensor *tensors, int n, struct err *err)
{
    return safetensors_save_from(path, tensors, n, NULL, err);
}
