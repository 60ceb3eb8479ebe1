/* base/db.h - the one door to SQLite: files that are whole after kill -9, statements with bound values, rows read column
 * by column. Unknown numbers (NAN; -1 where a count cannot be negative) are NULL in the file, and come back as such. */
#ifndef TUNEUP_BASE_DB_H
#define TUNEUP_BASE_DB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"

struct sqlite3;
struct db {
    struct sqlite3 *handle;
    char path[FILE_PATH_MAX];
};

/* Opens an existing regular file, or makes one; the file is not changed until something is written. ERR_INPUT if it is
 * no file that can be a database. Writers wait for each other for up to 20 s. */
int db_open(struct db *d, const char *path, bool create, struct err *err);
void db_close(struct db *d); /* accepts a closed one */
/* Write-ahead log, synced at every commit. It is written into the file, so check first whose it is. */
int db_durable(struct db *d, struct err *err);

/* One statement. types has a letter for each value: t const char * (NULL is NULL), i int64_t, n int64_t with -1 for
 * NULL, d double with NAN for NULL. The first column of the first row goes to *out unless out is NULL; no row leaves
 * it. ERR_INPUT when the file is damaged or lacks a table, else ERR_SYSTEM. */
int db_exec(struct db *d, struct err *err, int64_t *out, const char *sql, const char *types, ...);
int db_script(struct db *d, const char *sql, struct err *err); /* several statements without values */
/* A copy of the whole file, whole or not at all, under a name that is not taken. */
int db_copy(struct db *d, const char *path, struct err *err);
int db_begin(struct db *d, struct err *err); /* for writing */
int db_end(struct db *d, int result, struct err *err); /* commits if result is 0, else undoes; returns the outcome */
int64_t db_last_id(const struct db *d);
int64_t db_changes(const struct db *d);

/* A row; each db_take_ reads the next column. */
struct db_row {
    void *statement;
    int column;
    bool failed; /* an allocation did, and err is set */
    struct err *err;
};
char *db_take_text(struct db_row *r); /* a copy for mem_free; "" for NULL */
int64_t db_take_int(struct db_row *r); /* -1 for NULL and what is no integer */
double db_take_real(struct db_row *r); /* NAN for NULL and what is no number */
/* Calls take for every row of the query, until it returns -1 or a copy fails. */
int db_each(struct db *d, const char *sql, int (*take)(void *user, struct db_row *r), void *user, struct err *err);

#endif
