/* libzip reads the archive, pickle.c the description, and this file puts the two together: every storage against its
 * entry's size, every tensor against its storage. The sum of what is read never exceeds the file, so entries that
 * overlap cannot blow up memory. */
#include "store/torch_bin.h"

#include <inttypes.h>
#include <string.h>
#include <zip.h>

#include "base/log.h"
#include "base/mem.h"
#include "store/pickle.h"

#define PICKLE_MAX ((uint64_t)16 << 20)
#define ENTRY_NAME_MAX 256

struct archive {
    zip_t *zip;
    const char *file;
    char prefix[ENTRY_NAME_MAX - 32]; /* "pytorch_model" of "pytorch_model/data.pkl" */
    uint64_t left; /* bytes that may still be read */
    struct err *err;
};

/* A storage in memory, by its key; the same key is described once for each tensor that uses it. */
struct loaded {
    int key;
    size_t bytes;
    void *data;
};

static int refuse(const struct archive *a, const char *what, const char *entry)
{
    char safe[ENTRY_NAME_MAX];

    err_set(a->err, ERR_INPUT, "%s", what);
    err_where(a->err, "file \"%s\"%s%s%s", a->file, entry ? ", entry \"" : "",
              entry ? log_safe(safe, sizeof safe, entry) : "", entry ? "\"" : "");
    return err_hint(a->err, "The file is damaged or was not written by torch.save; copy or save it again.");
}

static int not_a_zip(const unsigned char *data, size_t n, const char *name, struct err *err)
{
    static const unsigned char old_magic[] = { 0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46 };

    if (n >= sizeof old_magic && memcmp(data, old_magic, sizeof old_magic) == 0) {
        err_set(err, ERR_INPUT, "the file has PyTorch's form from before version 1.6, which is not read");
        err_where(err, "file \"%s\"", name);
        return err_hint(err, "Load it in PyTorch and save it again with torch.save, or as safetensors.");
    }
    err_set(err, ERR_INPUT, "the file is not a zip archive, so it was not written by torch.save");
    err_where(err, "file \"%s\"", name);
    return err_hint(err, "A file of a few hundred bytes may be a pointer of Git LFS: fetch the real one.");
}

static int open_archive(struct archive *a, const unsigned char *data, size_t n)
{
    zip_error_t e;

    if (n < 4 || memcmp(data, "PK\3\4", 4) != 0)
        return not_a_zip(data, n, a->file, a->err);
    zip_error_init(&e);
    zip_source_t *source = zip_source_buffer_create(data, n, 0, &e);
    a->zip = source ? zip_open_from_source(source, ZIP_RDONLY, &e) : NULL;
    if (!a->zip) {
        char text[200];
        snprintf(text, sizeof text, "the zip archive cannot be read: %s", zip_error_strerror(&e));
        zip_source_free(source);
        refuse(a, text, NULL);
    }
    zip_error_fini(&e);
    return a->zip ? 0 : -1;
}

/* The bytes of a stored entry; NULL on error. expected: its size, or -1 for any up to max. */
static void *read_entry(struct archive *a, uint64_t index, int64_t expected, uint64_t max, size_t *bytes)
{
    const uint64_t needed = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    zip_stat_t st;
    char text[160];

    if (zip_stat_index(a->zip, index, 0, &st) != 0 || (st.valid & needed) != needed) {
        refuse(a, "an entry of the archive cannot be examined", NULL);
        return NULL;
    }
    if (st.comp_method != ZIP_CM_STORE || st.comp_size != st.size ||
        ((st.valid & ZIP_STAT_ENCRYPTION_METHOD) && st.encryption_method != ZIP_EM_NONE)) {
        refuse(a, "an entry is compressed or encrypted, torch.save stores them as they are", st.name);
        return NULL;
    }
    if (st.size > a->left || st.size > max || (expected >= 0 && st.size != (uint64_t)expected)) {
        snprintf(text, sizeof text, "an entry has %" PRIu64 " bytes, expected are %s%" PRIu64, (uint64_t)st.size,
                 expected >= 0 ? "" : "at most ",
                 expected >= 0   ? (uint64_t)expected
                 : a->left < max ? a->left
                                 : max);
        refuse(a, text, st.name);
        return NULL;
    }
    void *data = mem_array((int64_t)st.size, 1, 1, MEM_STORE, a->err);
    zip_file_t *f = data ? zip_fopen_index(a->zip, index, 0) : NULL;
    if (data && (!f || zip_fread(f, data, st.size) != (zip_int64_t)st.size || zip_fread(f, text, 1) != 0)) {
        snprintf(text, sizeof text, "an entry cannot be read: %.100s", f ? zip_file_strerror(f) : zip_strerror(a->zip));
        refuse(a, text, st.name);
        mem_free(data);
        data = NULL;
    }
    if (f)
        zip_fclose(f);
    if (data)
        a->left -= st.size;
    *bytes = st.size;
    return data;
}

static int64_t find_pickle(struct archive *a)
{
    static const char tail[] = "/data.pkl";
    const int64_t n = zip_get_num_entries(a->zip, 0);
    int64_t found = -1;

    for (int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(a->zip, (uint64_t)i, ZIP_FL_ENC_RAW);
        const size_t length = name ? strlen(name) : 0;

        if (length < sizeof tail || length >= sizeof a->prefix || strcmp(name + length - (sizeof tail - 1), tail) != 0)
            continue;
        if (found >= 0)
            return refuse(a, "the archive holds two pickles", name);
        found = i;
        snprintf(a->prefix, sizeof a->prefix, "%.*s", (int)(length - (sizeof tail - 1)), name);
    }
    return found >= 0 ? found : refuse(a, "the archive has no data.pkl", NULL);
}

static int64_t locate(struct archive *a, const char *tail, char *name)
{
    snprintf(name, ENTRY_NAME_MAX, "%s/%s", a->prefix, tail);
    return zip_name_locate(a->zip, name, ZIP_FL_ENC_RAW);
}

static int check_byte_order(struct archive *a)
{
    char name[ENTRY_NAME_MAX];
    size_t bytes = 0;
    const int64_t index = locate(a, "byteorder", name);

    if (index < 0)
        return 0; /* older files have none and are little endian */
    char *text = read_entry(a, (uint64_t)index, -1, 16, &bytes);
    if (!text)
        return -1;
    const bool little = bytes == 6 && memcmp(text, "little", 6) == 0;
    mem_free(text);
    return little ? 0 : refuse(a, "the values are not little endian", name);
}

static int key_of(const struct pickle_storage *s)
{
    int key = 0;

    for (int i = 0; i < s->key.n; i++)
        key = 10 * key + (s->key.at[i] - '0');
    return key;
}

/* Reads the storage unless it is there; its place in `all`, or -1. */
static int load_storage(struct archive *a, struct torch_bin *b, struct loaded *all, const struct pickle_storage *s)
{
    char name[ENTRY_NAME_MAX], tail[24];
    size_t bytes;
    const int key = key_of(s);

    if (!mem_mul((size_t)s->count, s->element_bytes, &bytes) || bytes > INT64_MAX)
        return refuse(a, "a storage is larger than memory can be", NULL);
    for (int i = 0; i < b->n_storages; i++)
        if (all[i].key == key)
            return all[i].bytes == bytes ? i : refuse(a, "one storage is described with two sizes", NULL);
    snprintf(tail, sizeof tail, "data/%.*s", s->key.n, s->key.at);
    const int64_t index = locate(a, tail, name);
    if (index < 0)
        return refuse(a, "a storage has no entry in the archive", name);
    void *data = read_entry(a, (uint64_t)index, (int64_t)bytes, UINT64_MAX, &bytes);
    if (!data)
        return -1;
    all[b->n_storages] = (struct loaded){ key, bytes, data };
    b->storages[b->n_storages] = data;
    return b->n_storages++;
}

static bool is_contiguous(const struct pickle_tensor *t)
{
    int64_t stride = 1;

    for (int i = t->shape.rank - 1; i >= 0; i--) {
        if (t->shape.dim[i] != 1 && t->strides.dim[i] != stride)
            return false;
        stride *= t->shape.dim[i];
    }
    return true;
}

static int bad_tensor(const struct archive *a, const char *tensor, const char *what)
{
    char safe[160];

    err_set(a->err, ERR_INPUT, "%s", what);
    err_where(a->err, "file \"%s\", tensor \"%s\"", a->file, log_safe(safe, sizeof safe, tensor));
    return err_hint(a->err, "Save it again in PyTorch with every tensor made contiguous(), or as safetensors.");
}

static int place_tensor(struct archive *a, const struct pickle_tensor *t, const struct pickle_storage *s,
                        const struct loaded *storage, struct stored_tensor *out)
{
    const int64_t count = shape_count(&t->shape);

    if (count < 0)
        return bad_tensor(a, out->name, "the shape's extents overflow when multiplied");
    if (count > 0 && !is_contiguous(t))
        return bad_tensor(a, out->name, "the tensor is not contiguous");
    if (t->offset > s->count || count > s->count - t->offset)
        return bad_tensor(a, out->name, "the tensor reaches beyond its storage");
    out->dtype = s->dtype;
    out->unsupported = s->unsupported;
    out->shape = t->shape;
    out->data = (const char *)storage->data + (size_t)t->offset * s->element_bytes;
    out->bytes = (size_t)count * s->element_bytes;
    return 0;
}

static int copy_names(struct torch_bin *b, const struct pickle *p, struct err *err)
{
    int64_t length = 0, at = 0;

    for (int i = 0; i < p->n_tensors; i++)
        length += p->tensors[i].name.n + 1;
    b->names = mem_array(length, 1, 1, MEM_STORE, err);
    if (!b->names)
        return -1;
    for (int i = 0; i < p->n_tensors; i++) {
        b->tensors[i].name = memcpy(b->names + at, p->tensors[i].name.at, (size_t)p->tensors[i].name.n);
        at += p->tensors[i].name.n + 1;
    }
    return 0;
}

static int put_together(struct archive *a, struct torch_bin *b, const struct pickle *p)
{
    int result = -1;
    struct loaded *all = mem_array(p->n_storages, 1, sizeof *all, MEM_STORE, a->err);

    b->storages = all ? mem_array(p->n_storages, 1, sizeof *b->storages, MEM_STORE, a->err) : NULL;
    b->tensors = b->storages ? mem_array(p->n_tensors, 1, sizeof *b->tensors, MEM_STORE, a->err) : NULL;
    if (!b->tensors || copy_names(b, p, a->err) != 0)
        goto done;
    for (int i = 0; i < p->n_tensors; i++) {
        const struct pickle_storage *s = &p->storages[p->tensors[i].storage];
        const int at = load_storage(a, b, all, s);

        if (at < 0 || place_tensor(a, &p->tensors[i], s, &all[at], &b->tensors[i]) != 0)
            goto done;
    }
    b->n_tensors = p->n_tensors;
    result = 0;
done:
    mem_free(all);
    return result;
}

int torch_bin_parse(struct torch_bin *b, const unsigned char *data, size_t n, const char *name, struct err *err)
{
    struct archive a = { .file = name, .left = n, .err = err };
    struct pickle pickle = { 0 };
    unsigned char *text = NULL;
    size_t bytes = 0;
    int result = -1;

    *b = (struct torch_bin){ 0 };
    if (open_archive(&a, data, n) != 0)
        return -1;
    const int64_t index = find_pickle(&a);
    if (index >= 0 && check_byte_order(&a) == 0)
        text = read_entry(&a, (uint64_t)index, -1, PICKLE_MAX, &bytes);
    if (text && pickle_parse(&pickle, text, bytes, name, err) == 0)
        result = put_together(&a, b, &pickle);
    pickle_free(&pickle);
    mem_free(text);
    zip_discard(a.zip);
    if (result != 0)
        torch_bin_close(b);
    return result;
}

int torch_bin_open(struct torch_bin *b, const char *path, struct err *err)
{
    struct file_map map;

    *b = (struct torch_bin){ 0 };
    if (file_map_open(&map, path, err) != 0)
        return -1;
    const int result = torch_bin_parse(b, map.data, map.bytes, path, err);
    file_map_close(&map);
    return result;
}

void torch_bin_close(struct torch_bin *b)
{
    for (int i = 0; i < b->n_storages; i++)
        mem_free(b->storages[i]);
    mem_free(b->storages);
    mem_free(b->tensors);
    mem_free(b->names);
    *b = (struct torch_bin){ 0 };
}
