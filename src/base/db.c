#include "base/db.h"

#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define BUSY_MS 20000

static int failed(const struct db *d, struct err *err)
{
    const int code = sqlite3_errcode(d->handle);
    const bool content = code == SQLITE_NOTADB || code == SQLITE_CORRUPT || code == SQLITE_ERROR;

    err_set(err, content ? ERR_INPUT : ERR_SYSTEM, "could not use the database: %s", sqlite3_errmsg(d->handle));
    err_where(err, "file \"%s\"", d->path);
    if (code == SQLITE_FULL)
        err_hint(err, "Free space on its disk, then run the same command again.");
    else if (code == SQLITE_BUSY)
        err_hint(err, "Another program keeps it locked; wait for that one to end.");
    return -1;
}

int db_open(struct db *d, const char *path, bool create, struct err *err)
{
    const int flags = SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0);

    *d = (struct db){ 0 };
    if ((size_t)snprintf(d->path, sizeof d->path, "%s", path) >= sizeof d->path)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", path);
    if (!create || file_exists(path)) { /* says what it is when it is no regular file */
        FILE *regular = file_open_read(path, err);

        if (!regular)
            return -1;
        fclose(regular);
    }
    if (sqlite3_open_v2(path, &d->handle, flags, NULL) != SQLITE_OK) {
        failed(d, err);
        db_close(d);
        return -1;
    }
    sqlite3_busy_timeout(d->handle, BUSY_MS);
    return db_exec(d, err, NULL, "PRAGMA foreign_keys = ON", "");
}

void db_close(struct db *d)
{
    sqlite3_close(d->handle);
    d->handle = NULL;
}

int db_durable(struct db *d, struct err *err)
{
    /* Here SQLite asks for the write lock while it reads, and does not wait for it as it does elsewhere. */
    const int pause_ms = 10;
    int waited_ms = 0;

    while (db_exec(d, err, NULL, "PRAGMA journal_mode = WAL", "") != 0) {
        if (sqlite3_errcode(d->handle) != SQLITE_BUSY || waited_ms >= BUSY_MS)
            return -1;
        *err = (struct err){ 0 };
        waited_ms += sqlite3_sleep(pause_ms);
    }
    return db_exec(d, err, NULL, "PRAGMA synchronous = FULL", "");
}

static int bind(sqlite3_stmt *q, const char *types, va_list args)
{
    int result = SQLITE_OK;

    for (int i = 1; types[i - 1] && result == SQLITE_OK; i++) {
        if (types[i - 1] == 't') {
            result = sqlite3_bind_text(q, i, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
        } else if (types[i - 1] == 'd') {
            const double value = va_arg(args, double);
            result = isnan(value) ? sqlite3_bind_null(q, i) : sqlite3_bind_double(q, i, value);
        } else {
            const int64_t value = va_arg(args, int64_t);
            result = types[i - 1] == 'n' && value < 0 ? sqlite3_bind_null(q, i) : sqlite3_bind_int64(q, i, value);
        }
    }
    return result;
}

int db_exec(struct db *d, struct err *err, int64_t *out, const char *sql, const char *types, ...)
{
    sqlite3_stmt *q = NULL;
    va_list args;

    if (sqlite3_prepare_v2(d->handle, sql, -1, &q, NULL) != SQLITE_OK)
        return failed(d, err);
    va_start(args, types);
    int result = bind(q, types, args);
    va_end(args);
    if (result == SQLITE_OK)
        result = sqlite3_step(q);
    if (result == SQLITE_ROW && out)
        *out = sqlite3_column_int64(q, 0);
    if (result != SQLITE_ROW && result != SQLITE_DONE)
        failed(d, err);
    sqlite3_finalize(q);
    return result == SQLITE_ROW || result == SQLITE_DONE ? 0 : -1;
}

int db_script(struct db *d, const char *sql, struct err *err)
{
    return sqlite3_exec(d->handle, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(d, err);
}

int db_copy(struct db *d, const char *path, struct err *err)
{
    char temporary[FILE_PATH_MAX];

    if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp", path) >= sizeof temporary)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", path);
    remove(temporary); /* of an attempt that was cut off */
    if (db_exec(d, err, NULL, "VACUUM INTO ?", "t", temporary) != 0)
        return -1;
    return rename(temporary, path) == 0 ? 0 : err_errno(err, "could not put \"%s\" in its place", path);
}

int db_begin(struct db *d, struct err *err)
{
    return db_exec(d, err, NULL, "BEGIN IMMEDIATE", "");
}

int db_end(struct db *d, int result, struct err *err)
{
    if (result == 0)
        result = db_exec(d, err, NULL, "COMMIT", "");
    if (result != 0)
        sqlite3_exec(d->handle, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

int64_t db_last_id(const struct db *d)
{
    return sqlite3_last_insert_rowid(d->handle);
}

int64_t db_changes(const struct db *d)
{
    return sqlite3_changes(d->handle);
}

char *db_take_text(struct db_row *r)
{
    const char *text = (const char *)sqlite3_column_text(r->statement, r->column++);
    char *copy = mem_strdup(text ? text : "", MEM_RECORD, r->err);

    r->failed = r->failed || !copy;
    return copy;
}

int64_t db_take_int(struct db_row *r)
{
    const int i = r->column++;

    return sqlite3_column_type(r->statement, i) == SQLITE_INTEGER ? sqlite3_column_int64(r->statement, i) : -1;
}

double db_take_real(struct db_row *r)
{
    const int i = r->column++, type = sqlite3_column_type(r->statement, i);

    return type == SQLITE_FLOAT || type == SQLITE_INTEGER ? sqlite3_column_double(r->statement, i) : NAN;
}

int db_each(struct db *d, const char *sql, int (*take)(void *user, struct db_row *r), void *user, struct err *err)
{
    sqlite3_stmt *q = NULL;
    int step;

    if (sqlite3_prepare_v2(d->handle, sql, -1, &q, NULL) != SQLITE_OK)
        return failed(d, err);
    while ((step = sqlite3_step(q)) == SQLITE_ROW) {
        struct db_row r = { .statement = q, .err = err };

        if (take(user, &r) != 0 || r.failed) {
            sqlite3_finalize(q);
            return -1;
        }
    }
    const int result = step == SQLITE_DONE ? 0 : failed(d, err);
    sqlite3_finalize(q);
    return result;
}
