/* The order of writes is the whole idea: parts, their fsync, the manifest, the folder's fsync, one rename, the parent's
 * fsync. Whatever ends the program in between leaves a hidden folder, which the next checkpoint_begin removes. The
 * manifest carries a hash of itself, so that a flipped bit in the state is found too. */
#include "store/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#define MANIFEST_MAX ((size_t)64 << 20)
#define FORMAT 1
#define CHUNK_BYTES ((size_t)1 << 20) /* of what is not in memory, at a time */

static bool is_part_name(const char *name)
{
    const size_t n = strlen(name);

    return n > 0 && n < CHECKPOINT_NAME_MAX && name[0] != '.' && strcmp(name, "manifest.json") != 0 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == n;
}

/* "checkpoint-<step>" -> step; -1 for any other name. */
static int64_t step_of(const char *name)
{
    static const char head[] = "checkpoint-";
    const char *digits = name + sizeof head - 1;

    if (strncmp(name, head, sizeof head - 1) != 0)
        return -1;
    const size_t n = strlen(digits);
    if (n == 0 || n > 18 || strspn(digits, "0123456789") != n || (n > 1 && digits[0] == '0'))
        return -1;
    return strtoll(digits, NULL, 10);
}

static bool is_leftover(const char *name)
{
    const size_t n = strlen(name);

    return strncmp(name, ".checkpoint-", 12) == 0 && n > 4 && strcmp(name + n - 4, ".tmp") == 0;
}

static int path_of(char *out, const char *dir, int64_t step, bool hidden, struct err *err)
{
    char name[48];

    snprintf(name, sizeof name, "%scheckpoint-%" PRId64 "%s", hidden ? "." : "", step, hidden ? ".tmp" : "");
    return file_join(out, dir, name, err);
}

static int remove_leftovers(const char *dir, struct err *err)
{
    DIR *d = opendir(dir);
    int failed = 0;

    if (!d)
        return err_errno(err, "could not open the folder \"%s\"", dir);
    for (struct dirent *e; !failed && (e = readdir(d)) != NULL;) {
        char path[FILE_PATH_MAX];

        if (is_leftover(e->d_name))
            failed = file_join(path, dir, e->d_name, err) != 0 || file_remove_tree(path, err) != 0;
    }
    closedir(d);
    return failed ? -1 : 0;
}

int checkpoint_begin(const char *dir, int64_t step, char *tmp, struct err *err)
{
    MUST(step >= 0);
    if (file_make_dir(dir, err) != 0 || remove_leftovers(dir, err) != 0 || path_of(tmp, dir, step, true, err) != 0)
        return -1;
    return file_make_dir(tmp, err);
}

static int check_space(const char *path, size_t bytes, struct err *err)
{
    const int64_t available = file_free_bytes(path, err);

    if (available < 0)
        return -1;
    if ((uint64_t)available >= bytes)
        return 0;
    err_set(err, ERR_SYSTEM, "\"%s\" needs %zu bytes, the file system has %" PRId64 " free", path, bytes, available);
    return err_hint(err, "Free some space, keep fewer checkpoints, or choose another folder.");
}

static int write_bytes(struct file_out *o, const void *data, size_t bytes, struct hash_stream *hash, struct err *err)
{
    if (fwrite(data, 1, bytes, o->stream) != bytes)
        return err_errno(err, "could not write %zu bytes to \"%s\"", bytes, o->path);
    hash_step(hash, data, bytes);
    return 0;
}

static int write_elsewhere(struct file_out *o, const struct checkpoint_piece *p, struct hash_stream *hash,
                           struct err *err)
{
    const struct checkpoint_elsewhere *e = p->elsewhere;
    char *chunk = mem_array(1, 1, CHUNK_BYTES, MEM_STORE, err);
    int result = chunk ? 0 : -1;

    for (size_t at = 0, bytes; result == 0 && at < p->bytes; at += bytes) {
        bytes = p->bytes - at < CHUNK_BYTES ? p->bytes - at : CHUNK_BYTES;
        result = e->get(e->context, p->number, at, chunk, bytes, err);
        if (result == 0)
            result = write_bytes(o, chunk, bytes, hash, err);
    }
    mem_free(chunk);
    return result;
}

static int write_pieces(struct file_out *o, const struct checkpoint_piece *pieces, int n, struct hash_stream *hash,
                        struct err *err)
{
    int result = 0;

    for (int i = 0; i < n && result == 0; i++)
        if (pieces[i].bytes > 0)
            result = pieces[i].data ? write_bytes(o, pieces[i].data, pieces[i].bytes, hash, err)
                                    : write_elsewhere(o, &pieces[i], hash, err);
    return result;
}

int checkpoint_write_part(const char *tmp, const char *name, const struct checkpoint_piece *pieces, int n,
                          struct checkpoint_part *out, struct err *err)
{
    char path[FILE_PATH_MAX];
    struct file_out file = { 0 };
    struct hash_stream *hash;
    size_t total = 0;

    MUST(is_part_name(name));
    for (int i = 0; i < n; i++)
        total += pieces[i].bytes;
    if (file_join(path, tmp, name, err) != 0 || check_space(tmp, total, err) != 0)
        return -1;
    hash = hash_open(err);
    if (!hash)
        return -1;
    int result = file_out_open(&file, path, err);
    if (result == 0)
        result = write_pieces(&file, pieces, n, hash, err);
    if (result == 0)
        result = file_out_commit(&file, err);
    file_out_abort(&file);
    *out = (struct checkpoint_part){ .bytes = total, .hash = hash_value(hash) };
    snprintf(out->name, sizeof out->name, "%s", name);
    hash_close(hash);
    return result;
}

static void hash_text(char out[20], uint64_t hash)
{
    snprintf(out, 20, "%016" PRIx64, hash);
}

/* The hash of a manifest's members other than "hash", in a form that does not depend on how it was written. */
static int hash_manifest(const json_t *manifest, char out[20], struct err *err)
{
    json_t *rest = json_copy((json_t *)manifest);
    char *text = NULL;

    if (rest) {
        json_object_del(rest, "hash");
        text = json_dumps(rest, JSON_COMPACT | JSON_SORT_KEYS);
        json_decref(rest);
    }
    if (!text)
        return err_set(err, ERR_MEMORY, "could not make the manifest of a checkpoint");
    hash_text(out, hash_bytes(text, strlen(text)));
    free(text);
    return 0;
}

static json_t *make_manifest(int64_t step, const json_t *state, const struct checkpoint_part *parts, int n,
                             struct err *err)
{
    json_t *list = json_array();
    char hash[20];

    for (int i = 0; i < n; i++) {
        hash_text(hash, parts[i].hash);
        json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", parts[i].name, "bytes",
                                              (json_int_t)parts[i].bytes, "xxh3", hash));
    }
    json_t *manifest = json_pack("{s:i, s:I, s:O?, s:o}", "format", FORMAT, "step", (json_int_t)step, "state",
                                 (json_t *)state, "parts", list);
    if (!manifest || json_array_size(list) != (size_t)n || hash_manifest(manifest, hash, err) != 0 ||
        json_object_set_new(manifest, "hash", json_string(hash)) != 0) {
        err_set(err, ERR_MEMORY, "could not make the manifest of a checkpoint");
        json_decref(manifest);
        return NULL;
    }
    return manifest;
}

/* For file systems that cannot exchange two names: a program that ends between the two renames leaves the steps before
 * this one. */
static int replace_in_two(const char *tmp, const char *path, struct err *err)
{
    char aside[FILE_PATH_MAX];

    if (snprintf(aside, sizeof aside, "%.*s.old.tmp", (int)strlen(tmp) - 4, tmp) >= (int)sizeof aside)
        return err_set(err, ERR_INPUT, "the path \"%.80s...\" is too long", tmp);
    if (rename(path, aside) != 0 || rename(tmp, path) != 0)
        return err_errno(err, "could not put the checkpoint \"%s\" in its place", path);
    return file_remove_tree(aside, err);
}

/* One of the same step is there only when a run that was resumed from an older one comes by again. */
static int put_in_place(const char *tmp, const char *path, struct err *err)
{
    if (!file_exists(path)) {
        if (rename(tmp, path) != 0)
            return err_errno(err, "could not put the checkpoint \"%s\" in its place", path);
        return 0;
    }
    if (renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
        return file_remove_tree(tmp, err);
    if (errno == EINVAL || errno == ENOSYS)
        return replace_in_two(tmp, path, err);
    return err_errno(err, "could not put the checkpoint \"%s\" in its place", path);
}

int checkpoint_commit(const char *dir, int64_t step, const char *tmp, const json_t *state,
                      const struct checkpoint_part *parts, int n, struct err *err)
{
    char path[FILE_PATH_MAX], manifest_path[FILE_PATH_MAX];

    if (path_of(path, dir, step, false, err) != 0 || file_join(manifest_path, tmp, "manifest.json", err) != 0)
        return -1;
    json_t *manifest = make_manifest(step, state, parts, n, err);
    if (!manifest)
        return -1;
    int result = json_write(manifest_path, manifest, JSON_INDENT(1), err);
    json_decref(manifest);
    if (result == 0)
        result = file_sync_dir(tmp, err);
    if (result == 0)
        result = put_in_place(tmp, path, err);
    return result == 0 ? file_sync_dir(dir, err) : -1;
}

static int damaged(struct err *err, const char *path, const char *what)
{
    err_set(err, ERR_INPUT, "%s", what);
    return err_where(err, "file \"%s\"", path);
}

/* Also a part whose file can be read but is another than was written. */
static int verify_part(const char *folder, const json_t *part, struct err *err)
{
    const char *name = json_string_value(json_object_get(part, "name"));
    const char *wanted = json_string_value(json_object_get(part, "xxh3"));
    const json_t *bytes = json_object_get(part, "bytes");
    char path[FILE_PATH_MAX], hash[20];
    struct file_map map;

    if (!name || !wanted || !json_is_integer(bytes) || !is_part_name(name))
        return damaged(err, folder, "a part is not described as it should be");
    if (file_join(path, folder, name, err) != 0 || file_map_open(&map, path, err) != 0)
        return -1;
    const bool same_size = (json_int_t)map.bytes == json_integer_value(bytes);
    if (same_size)
        hash_text(hash, hash_bytes(map.data, map.bytes));
    file_map_close(&map);
    if (!same_size)
        return damaged(err, path, "the part has another size than when it was written");
    return strcmp(hash, wanted) == 0 ? 0 : damaged(err, path, "the part's hash is another than when it was written");
}

/* The manifest of a whole checkpoint; NULL when anything about it is wrong. */
static json_t *verify(const char *folder, int64_t step, struct err *err)
{
    char path[FILE_PATH_MAX], hash[20];
    json_t *manifest = NULL;
    const json_t *parts;

    if (file_join(path, folder, "manifest.json", err) != 0 || !(manifest = json_read(path, MANIFEST_MAX, err)))
        return NULL;
    const char *wanted = json_string_value(json_object_get(manifest, "hash"));
    parts = json_object_get(manifest, "parts");
    if (!wanted || !json_is_array(parts) || json_integer_value(json_object_get(manifest, "format")) != FORMAT ||
        json_integer_value(json_object_get(manifest, "step")) != step)
        damaged(err, path, "the manifest is not of this form or step");
    else if (hash_manifest(manifest, hash, err) == 0 && strcmp(hash, wanted) != 0)
        damaged(err, path, "the manifest's hash is another than when it was written");
    else {
        size_t i = 0;
        while (i < json_array_size(parts) && verify_part(folder, json_array_get(parts, i), err) == 0)
            i++;
        if (i == json_array_size(parts))
            return manifest;
    }
    json_decref(manifest);
    return NULL;
}

static int newest_first(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x > y ? -1 : x < y;
}

/* The steps of all checkpoints in dir, the newest first, to be freed; *n of them. */
static int64_t *list_steps(const char *dir, int64_t *n, struct err *err)
{
    DIR *d = opendir(dir);
    int64_t *steps = mem_array(0, 1, sizeof *steps, MEM_STORE, err);

    *n = 0;
    if (!d && errno != ENOENT) {
        err_errno(err, "could not open the folder \"%s\"", dir);
        mem_free(steps);
        return NULL;
    }
    for (struct dirent *e; steps && d && (e = readdir(d)) != NULL;) {
        const int64_t step = step_of(e->d_name);

        if (step < 0)
            continue;
        int64_t *more = mem_resize(steps, *n + 1, sizeof *steps, MEM_STORE, err);
        if (!more)
            mem_free(steps);
        steps = more;
        if (steps)
            steps[(*n)++] = step;
    }
    if (d)
        closedir(d);
    if (steps && *n > 0)
        qsort(steps, (size_t)*n, sizeof *steps, newest_first);
    return steps;
}

int checkpoint_newest(const char *dir, char *path, int64_t *step, json_t **state, char *damaged_names,
                      size_t damaged_size, struct err *err)
{
    int64_t n, *steps = list_steps(dir, &n, err);
    size_t length = 0;
    int found = steps ? 0 : -1;

    damaged_names[0] = '\0';
    *state = NULL;
    for (int64_t i = 0; i < n && found == 0; i++) {
        struct err why = { 0 };
        json_t *manifest = NULL;

        if (path_of(path, dir, steps[i], false, err) != 0)
            found = -1;
        else if ((manifest = verify(path, steps[i], &why)) != NULL)
            found = 1;
        else if (why.code == ERR_MEMORY) { /* says nothing about the checkpoint */
            *err = why;
            found = -1;
        } else {
            log_detail("checkpoint-%" PRId64 " is damaged: %s, %s", steps[i], why.what, why.where);
            if (length < damaged_size)
                length += (size_t)snprintf(damaged_names + length, damaged_size - length, "%scheckpoint-%" PRId64,
                                           length ? ", " : "", steps[i]);
        }
        if (found == 1) {
            *step = steps[i];
            *state = json_incref(json_object_get(manifest, "state"));
        }
        json_decref(manifest);
    }
    mem_free(steps);
    return found;
}

static int read_bytes(FILE *f, const char *path, void *data, size_t bytes, struct err *err)
{
    if (fread(data, 1, bytes, f) == bytes)
        return 0;
    err_set(err, ERR_INPUT, "the part of a checkpoint is shorter than this run needs");
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "Resume with the options, ranks and model that wrote it.");
}

static int read_elsewhere(FILE *f, const char *path, const struct checkpoint_piece_out *p, struct err *err)
{
    const struct checkpoint_elsewhere *e = p->elsewhere;
    char *chunk = mem_array(1, 1, CHUNK_BYTES, MEM_STORE, err);
    int result = chunk ? 0 : -1;

    for (size_t at = 0, bytes; result == 0 && at < p->bytes; at += bytes) {
        bytes = p->bytes - at < CHUNK_BYTES ? p->bytes - at : CHUNK_BYTES;
        result = read_bytes(f, path, chunk, bytes, err);
        if (result == 0)
            result = e->put(e->context, p->number, at, chunk, bytes, err);
    }
    mem_free(chunk);
    return result;
}

static int read_pieces(FILE *f, const char *path, const struct checkpoint_piece_out *pieces, int n, struct err *err)
{
    for (int i = 0; i < n; i++)
        if (pieces[i].bytes > 0 && (pieces[i].data ? read_bytes(f, path, pieces[i].data, pieces[i].bytes, err)
                                                   : read_elsewhere(f, path, &pieces[i], err)) != 0)
            return -1;
    if (fgetc(f) == EOF && !ferror(f))
        return 0;
    err_set(err, ERR_INPUT, "the part of a checkpoint is longer than this run needs");
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "Resume with the options, ranks and model that wrote it.");
}

int checkpoint_read_part(const char *path, const char *name, const struct checkpoint_piece_out *pieces, int n,
                         struct err *err)
{
    char file[FILE_PATH_MAX];

    MUST(is_part_name(name));
    if (file_join(file, path, name, err) != 0)
        return -1;
    FILE *f = file_open_read(file, err);
    if (!f)
        return -1;
    const int result = read_pieces(f, file, pieces, n, err);
    fclose(f);
    return result;
}

int checkpoint_read_range(const char *path, const char *name, int64_t begin, void *data, size_t bytes, struct err *err)
{
    char file[FILE_PATH_MAX];
    int result = 0;

    MUST(is_part_name(name) && begin >= 0);
    if (file_join(file, path, name, err) != 0)
        return -1;
    FILE *f = file_open_read(file, err);
    if (!f)
        return -1;
    if (fseeko(f, (off_t)begin, SEEK_SET) != 0)
        result = err_errno(err, "could not go to byte %" PRId64 " of \"%s\"", begin, file);
    else if (bytes > 0 && fread(data, 1, bytes, f) != bytes) {
        err_set(err, ERR_INPUT, "the part of a checkpoint is shorter than its map says");
        result = err_where(err, "file \"%s\", %zu bytes from byte %" PRId64 " on", file, bytes, begin);
    }
    fclose(f);
    return result;
}

/* Hidden first, so that a half-removed one is never taken for a checkpoint. */
static int remove_checkpoint(const char *dir, int64_t step, struct err *err)
{
    char path[FILE_PATH_MAX], hidden[FILE_PATH_MAX];

    if (path_of(path, dir, step, false, err) != 0 || path_of(hidden, dir, step, true, err) != 0)
        return -1;
    if (rename(path, hidden) != 0)
        return err_errno(err, "could not remove the checkpoint \"%s\"", path);
    return file_remove_tree(hidden, err);
}

int checkpoint_prune(const char *dir, int keep, struct err *err)
{
    int64_t n, *steps = list_steps(dir, &n, err);
    int result = steps ? 0 : -1;

    for (int64_t i = keep > 1 ? keep : 1; i < n && result == 0; i++)
        result = remove_checkpoint(dir, steps[i], err);
    mem_free(steps);
    return result;
}

int64_t checkpoint_count(const char *dir, struct err *err)
{
    int64_t n, *steps = list_steps(dir, &n, err);

    if (!steps)
        return -1;
    mem_free(steps);
    return n;
}

int checkpoint_remove_after(const char *dir, int64_t step, struct err *err)
{
    int64_t n, *steps = list_steps(dir, &n, err);
    int result = steps ? 0 : -1;

    for (int64_t i = 0; i < n && result == 0 && steps[i] > step; i++)
        result = remove_checkpoint(dir, steps[i], err);
    mem_free(steps);
    return result;
}
