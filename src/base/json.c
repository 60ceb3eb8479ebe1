/* A thin layer: jansson parses, this file turns its complaints into ours and checks types and ranges. */
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

json_t *json_parse(const char *text, size_t n, const char *name, int64_t line, struct err *err)
{
    json_error_t e;
    json_t *value = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);

    if (!value) {
        char safe[JSON_ERROR_TEXT_LENGTH * 4];
        err_set(err, ERR_INPUT, "not valid JSON: %s", log_safe(safe, sizeof safe, e.text));
        err_where(err, "file \"%s\", line %" PRId64 ", column %d", name, line + (e.line > 0 ? e.line - 1 : 0),
                  e.column);
        err_hint(err, "Mend the file, or write it again with the tool it came from.");
    }
    return value;
}

json_t *json_read(const char *path, size_t max_bytes, struct err *err)
{
    size_t n;
    char *text = file_read(path, max_bytes, &n, err);

    if (!text)
        return NULL;
    json_t *value = json_parse(text, n, path, 1, err);
    mem_free(text);
    return value;
}

static int write_piece(const char *buffer, size_t size, void *data)
{
    struct file_out *out = data;

    return fwrite(buffer, 1, size, out->stream) == size ? 0 : -1;
}

int json_write(const char *path, const json_t *value, size_t flags, struct err *err)
{
    struct file_out out;

    if (file_out_open(&out, path, err) != 0)
        return -1;
    const int failed =
        json_dump_callback(value, write_piece, &out, flags | JSON_ENCODE_ANY) != 0 || fputc('\n', out.stream) == EOF;
    if (failed) {
        err_errno(err, "could not write \"%s\"", path);
        file_out_abort(&out);
        return -1;
    }
    return file_out_commit(&out, err);
}

static int wrong(const char *name, const char *key, const char *wanted, const json_t *got, struct err *err)
{
    char *text = json_dumps(got, JSON_ENCODE_ANY | JSON_COMPACT);

    err_set(err, ERR_INPUT, "\"%s\" is %.60s, it must be %s", key, text ? text : "?", wanted);
    free(text);
    err_where(err, "file \"%s\"", name);
    return -1;
}

int json_get_int(const json_t *object, const char *name, const char *key, int64_t min, int64_t max, int64_t *out,
                 struct err *err)
{
    const json_t *v = json_object_get(object, key);
    char wanted[96];

    if (!v || json_is_null(v))
        return 0;
    if (json_is_integer(v) && json_integer_value(v) >= min && json_integer_value(v) <= max) {
        *out = json_integer_value(v);
        return 1;
    }
    snprintf(wanted, sizeof wanted, "a whole number from %" PRId64 " to %" PRId64, min, max);
    return wrong(name, key, wanted, v, err);
}

int json_get_real(const json_t *object, const char *name, const char *key, double min, double max, double *out,
                  struct err *err)
{
    const json_t *v = json_object_get(object, key);
    char wanted[96];

    if (!v || json_is_null(v))
        return 0;
    if (json_is_number(v) && json_number_value(v) >= min && json_number_value(v) <= max) {
        *out = json_number_value(v);
        return 1;
    }
    snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
    return wrong(name, key, wanted, v, err);
}

int json_get_bool(const json_t *object, const char *name, const char *key, bool *out, struct err *err)
{
    const json_t *v = json_object_get(object, key);

    if (!v || json_is_null(v))
        return 0;
    if (!json_is_boolean(v))
        return wrong(name, key, "true or false", v, err);
    *out = json_is_true(v);
    return 1;
}

int json_get_string(const json_t *object, const char *name, const char *key, const char **out, struct err *err)
{
    const json_t *v = json_object_get(object, key);

    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v))
        return wrong(name, key, "a string", v, err);
    *out = json_string_value(v);
    return 1;
}
