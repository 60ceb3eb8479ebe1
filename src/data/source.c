/* A file is cut into pieces of text, one a record: by lines, or, in an array, by a scan that knows just enough of JSON
 * to find where an element ends. Each piece is then parsed on its own. That gives every record its line number, lets a
 * bad one be skipped, and keeps only one record's JSON tree in memory.
 * A decoded string is never longer than its spelling and its two quotes, so an arena of the file's size always
 * suffices: it is allocated once, and pointers into it stay valid. */
#include "data/source.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#define ZLIB_CONST /* next_in points to const */
#include <zlib.h>

#include "base/json.h"
#include "base/mem.h"

#define MAX_UNPACKED ((size_t)64 << 30)
#define FORM_HINT                                                                                                      \
    "Each record is a JSON object with \"prompt\", \"chosen\", \"rejected\" as strings: one object a line, or one "    \
    "array "                                                                                                           \
    "of objects. --skip_bad_records leaves faulty ones out."

/* ---- one record ---- */

int source_bad_record(struct source *s, int64_t line, struct err *err)
{
    if (err->code != ERR_INPUT || !s->skip_bad) {
        if (err->code == ERR_INPUT && !err->where[0])
            err_where(err, "file \"%s\", line %" PRId64, s->name, line);
        return -1;
    }
    if (s->n_skipped < SOURCE_MAX_PROBLEMS) {
        struct source_problem *p = &s->problems[s->n_skipped];
        p->line = line;
        snprintf(p->what, sizeof p->what, "%.*s", (int)sizeof p->what - 1, err->what);
    }
    s->n_skipped++;
    *err = (struct err){ 0 };
    return 0;
}

static int take_field(struct source *s, const json_t *object, const char *key, const char **text, size_t *n,
                      struct err *err)
{
    const json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_string(value)) {
        err_set(err, ERR_INPUT, "\"%s\" is not a string", key);
        return err_hint(err, FORM_HINT);
    }
    *n = json_string_length(value);
    *text = memcpy(s->arena + s->arena_used, json_string_value(value), *n + 1);
    s->arena_used += *n + 1;
    return 0;
}

static int take_fields(struct source *s, const json_t *object, struct record_text *r, struct err *err)
{
    if (!json_is_object(object)) {
        err_set(err, ERR_INPUT, "a record is not a JSON object");
        return err_hint(err, FORM_HINT);
    }
    if (take_field(s, object, "prompt", &r->prompt, &r->prompt_n, err) != 0 ||
        take_field(s, object, "chosen", &r->chosen, &r->chosen_n, err) != 0 ||
        take_field(s, object, "rejected", &r->rejected, &r->rejected_n, err) != 0)
        return -1;
    if (r->prompt || r->chosen || r->rejected)
        return 0;
    if (take_field(s, object, "text", &r->text, &r->text_n, err) != 0)
        return -1;
    if (r->text)
        return 0;
    err_set(err, ERR_INPUT, "a record has none of \"prompt\", \"chosen\", \"rejected\", \"text\"");
    return err_hint(err, FORM_HINT);
}

static int append(struct source *s, const struct record_text *r, struct err *err)
{
    if (s->n_records == s->capacity) {
        const int64_t capacity = s->capacity ? s->capacity * 2 : 256;
        struct record_text *grown = mem_resize(s->records, capacity, sizeof *grown, MEM_DATA, err);
        if (!grown)
            return -1;
        s->records = grown;
        s->capacity = capacity;
    }
    s->records[s->n_records++] = *r;
    return 0;
}

static int take_record(struct source *s, const char *text, size_t n, int64_t line, struct err *err)
{
    struct record_text r = { .line = line };
    const size_t arena_before = s->arena_used;
    json_t *object = json_parse(text, n, s->name, line, err);
    int result = object ? take_fields(s, object, &r, err) : err_hint(err, FORM_HINT);

    json_decref(object);
    if (result == 0)
        return append(s, &r, err);
    s->arena_used = arena_before;
    return source_bad_record(s, line, err);
}

/* ---- a file into records ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static size_t skip_space(const char *text, size_t n, size_t at, int64_t *line)
{
    for (; at < n && is_space(text[at]); at++)
        *line += text[at] == '\n';
    return at;
}

static int parse_lines(struct source *s, const char *text, size_t n, struct err *err)
{
    int64_t line = 1;

    for (size_t at = 0, next; at < n; at = next, line++) {
        const char *end = memchr(text + at, '\n', n - at);
        int64_t ignored = 0;

        next = end ? (size_t)(end - text) + 1 : n;
        if (skip_space(text, next, at, &ignored) == next)
            continue;
        if (take_record(s, text + at, next - at, line, err) != 0)
            return -1;
    }
    return 0;
}

/* Where the element that begins at `at` ends: at a comma or bracket outside of strings and inner brackets, or at n. */
static size_t element_end(const char *text, size_t n, size_t at, int64_t *line)
{
    bool in_string = false;
    int64_t depth = 0;

    for (; at < n; at++) {
        const char c = text[at];

        *line += c == '\n';
        if (in_string) {
            at += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (depth == 0 && (c == ',' || c == ']')) {
            return at;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return n;
}

static int broken_array(const struct source *s, int64_t line, const char *what, struct err *err)
{
    err_set(err, ERR_INPUT, "%s", what);
    err_where(err, "file \"%s\", line %" PRId64, s->name, line);
    return err_hint(err, FORM_HINT);
}

/* at is behind the opening bracket. A fault in the array's own form is never skipped: what follows it is a guess. */
static int parse_array(struct source *s, const char *text, size_t n, size_t at, int64_t line, struct err *err)
{
    for (bool first = true;; first = false) {
        at = skip_space(text, n, at, &line);
        const int64_t begin_line = line;
        const size_t end = element_end(text, n, at, &line);

        if (end >= n)
            return broken_array(s, begin_line, "the array of records does not end", err);
        if (end == at && (!first || text[end] == ','))
            return broken_array(s, begin_line, "an element of the array of records is empty", err);
        if (end > at && take_record(s, text + at, end - at, begin_line, err) != 0)
            return -1;
        at = end + 1;
        if (text[end] == ']')
            break;
    }
    if (skip_space(text, n, at, &line) != n)
        return broken_array(s, line, "something follows the array of records", err);
    return 0;
}

static int parse_text(struct source *s, const char *text, size_t n, struct err *err)
{
    int64_t line = 1;

    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        n -= 3;
    }
    const size_t at = skip_space(text, n, 0, &line);
    const bool array = at < n && text[at] == '[';
    if ((array ? parse_array(s, text, n, at + 1, line, err) : parse_lines(s, text, n, err)) != 0)
        return -1;
    if (s->n_records > 0)
        return 0;
    err_set(err, ERR_INPUT, "there is no %srecord in the data file", s->n_skipped ? "good " : "");
    err_where(err, "file \"%s\"", s->name);
    return err_hint(err, FORM_HINT);
}

int source_parse(struct source *out, const char *text, size_t n, const char *name, bool skip_bad, struct err *err)
{
    struct source s = { .skip_bad = skip_bad };

    *out = (struct source){ 0 };
    if (n > MAX_UNPACKED)
        return err_set(err, ERR_INPUT, "\"%s\" has %zu bytes, at most %zu are accepted", name, n, MAX_UNPACKED);
    s.name = mem_strdup(name, MEM_DATA, err);
    s.arena = s.name ? mem_array((int64_t)n, 1, 1, MEM_DATA, err) : NULL;
    if (!s.arena || parse_text(&s, text, n, err) != 0) {
        source_free(&s);
        return -1;
    }
    *out = s;
    return 0;
}

void source_free(struct source *s)
{
    mem_free(s->name);
    mem_free(s->records);
    mem_free(s->arena);
    *s = (struct source){ 0 };
}

/* ---- gzip ---- */

static void *zlib_alloc(void *opaque, unsigned n, unsigned size)
{
    return mem_array(n, 1, size, MEM_DATA, opaque);
}

static void zlib_free(void *opaque, void *p)
{
    (void)opaque;
    mem_free(p);
}

struct unpacked {
    char *text;
    size_t n, capacity;
};

static int make_room(struct unpacked *u, struct err *err)
{
    if (u->n < u->capacity)
        return 0;
    if (u->capacity >= MAX_UNPACKED)
        return err_set(err, ERR_INPUT, "unpacked, the file has more than %zu bytes", MAX_UNPACKED);
    const size_t capacity = u->capacity ? u->capacity * 2 : 1 << 18;
    char *grown = mem_resize(u->text, (int64_t)capacity, 1, MEM_DATA, err);
    if (!grown)
        return -1;
    u->text = grown;
    u->capacity = capacity;
    return 0;
}

/* One call of inflate: as much as fits. zlib counts in unsigned int, so both sides go in slices. */
static int inflate_some(z_stream *z, const unsigned char *data, size_t n, size_t *used, struct unpacked *u)
{
    const uInt in = n - *used > UINT_MAX ? UINT_MAX : (uInt)(n - *used);
    const uInt room = u->capacity - u->n > UINT_MAX ? UINT_MAX : (uInt)(u->capacity - u->n);

    z->next_in = data + *used;
    z->avail_in = in;
    z->next_out = (Bytef *)u->text + u->n;
    z->avail_out = room;
    const int state = inflate(z, Z_NO_FLUSH);
    *used += in - z->avail_in;
    u->n += room - z->avail_out;
    return state;
}

/* A gzip file may be several members one after the other: their texts are joined. */
static int unpack(struct unpacked *u, const struct file_map *m, struct err *err)
{
    z_stream z = { .zalloc = zlib_alloc, .zfree = zlib_free, .opaque = err };
    size_t used = 0;
    int state = inflateInit2(&z, 15 + 16);

    while (state == Z_OK && make_room(u, err) == 0) {
        state = inflate_some(&z, m->data, m->bytes, &used, u);
        if (state == Z_STREAM_END && used < m->bytes)
            state = inflateReset(&z);
    }
    if (state != Z_STREAM_END && err->code == ERR_NONE) {
        err_set(err, ERR_INPUT, "the gzip data is %s near byte %zu: %s", state == Z_BUF_ERROR ? "cut short" : "damaged",
                used, z.msg ? z.msg : "no more input");
        err_hint(err, "Check it with \"gzip -t\", or fetch the file again.");
    }
    inflateEnd(&z);
    return state == Z_STREAM_END ? 0 : -1;
}

/* ---- files ---- */

static int load_packed(struct source *s, const struct file_map *m, const char *path, bool skip_bad, struct err *err)
{
    struct unpacked u = { 0 };
    int result;

    *err = (struct err){ 0 };
    result = unpack(&u, m, err);
    if (result != 0)
        err_where(err, "file \"%s\"", path);
    else
        result = source_parse(s, u.text, u.n, path, skip_bad, err);
    mem_free(u.text);
    return result;
}

int source_load(struct source *s, const char *path, bool skip_bad, struct err *err)
{
    struct file_map m;
    int result;

    *s = (struct source){ 0 };
    if (file_map_open(&m, path, err) != 0) {
        if (!file_exists(path))
            err_hint(err,
                     "Data sets are files here: save yours as JSON lines with \"prompt\", \"chosen\", \"rejected\", "
                     "or make one with \"tuneup data new\".");
        return -1;
    }
    if (m.bytes >= 2 && m.data[0] == 0x1f && m.data[1] == 0x8b)
        result = load_packed(s, &m, path, skip_bad, err);
    else
        result = source_parse(s, m.data ? (const char *)m.data : "", m.bytes, path, skip_bad, err);
    file_map_close(&m);
    return result;
}

static int find_side(const char *folder, const char *side, char *out, struct err *err)
{
    static const char *const ends[] = { "jsonl", "json", "jsonl.gz", "json.gz" };
    char name[32];

    for (int i = 0; i < COUNT_OF(ends); i++) {
        snprintf(name, sizeof name, "%s.%s", side, ends[i]);
        if (file_join(out, folder, name, err) != 0)
            return -1;
        if (file_exists(out))
            return 0;
    }
    err_set(err, ERR_INPUT, "the folder has neither %s.jsonl nor %s.json", side, side);
    err_where(err, "folder \"%s\"", folder);
    return err_hint(err, "A data set in a folder is train.jsonl and eval.jsonl; a single file is cut 9 to 1.");
}

int source_find(const char *path, char *train, char *eval, struct err *err)
{
    *eval = '\0';
    if (!file_is_dir(path)) {
        if (snprintf(train, FILE_PATH_MAX, "%s", path) >= FILE_PATH_MAX)
            return err_set(err, ERR_INPUT, "a path of %zu bytes is too long", strlen(path));
        return 0;
    }
    if (find_side(path, "train", train, err) != 0 || find_side(path, "eval", eval, err) != 0)
        return -1;
    return 1;
}
