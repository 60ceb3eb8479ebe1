/* Pieces wait in a short queue, in the order in which they were started; two threads take them, so that one is read while
 * another is written. The first failure is kept and everything after it is dropped: nothing is tried again behind the run's
 * back. The threads block all signals, for the reason that run/stop.c gives. */
#include "exec/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "plan/plan.h"

#define BLOCK ((size_t)PLAN_FILE_BLOCK)
#define THREADS 2
#define QUEUE 32 /* pieces that may be on their way at once; one more waits for the first to end */

enum piece_state { PIECE_NONE, PIECE_WAITS, PIECE_MOVES };

struct piece {
    enum piece_state state;
    uint64_t number; /* in the order of starting */
    bool write;
    char *memory;
    size_t offset, bytes;
};

struct disk {
    char folder[PATH_MAX];
    int file;
    size_t bytes;
    bool direct;
    char *bounce, *bounce_memory; /* on a block, in the memory that it is part of */
    pthread_t threads[THREADS];
    int n_threads;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t started, ended;
    struct piece pieces[QUEUE];
    uint64_t n_started;
    bool closing, failed;
    struct err failure;
};

/* ---- calls that tests can make fail ---- */

static _Atomic int64_t fail_countdown;
static atomic_int fail_error;

void disk_fail_at(int64_t n, int error)
{
    atomic_store(&fail_error, error);
    atomic_store(&fail_countdown, n);
}

static bool told_to_fail(void)
{
    int64_t n = atomic_load(&fail_countdown);

    while (n > 1 && !atomic_compare_exchange_weak(&fail_countdown, &n, n - 1)) {
    }
    return n == 1;
}

static ssize_t call(int file, bool write, char *memory, size_t bytes, size_t offset)
{
    if (told_to_fail()) {
        errno = atomic_load(&fail_error);
        return errno ? -1 : 0;
    }
    return write ? pwrite(file, memory, bytes, (off_t)offset) : pread(file, memory, bytes, (off_t)offset);
}

/* ---- moving ---- */

static int move_failed(const struct disk *d, bool write, size_t bytes, size_t offset, bool ended, struct err *err)
{
    const char *verb = write ? "write" : "read", *way = write ? "to" : "from";

    if (ended)
        err_set(err, ERR_SYSTEM, "could not %s %zu bytes %s the offload file in \"%s\": the file ends before them",
                verb, bytes, way, d->folder);
    else
        err_errno(err, "could not %s %zu bytes %s the offload file in \"%s\"", verb, bytes, way, d->folder);
    err_where(err, "byte %zu of the %zu that the plan puts there", offset, d->bytes);
    return err_hint(err,
                    "The last checkpoint is not touched: --resume goes on from it. See to the disk, or name another "
                    "folder with --offload_dir.");
}

static int move(const struct disk *d, bool write, char *memory, size_t offset, size_t bytes, struct err *err)
{
    const size_t all = bytes, first = offset;

    while (bytes > 0) {
        const ssize_t n = call(d->file, write, memory, bytes, offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return move_failed(d, write, all, first, n == 0, err);
        memory += n;
        offset += (size_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

static struct piece *next_piece(struct disk *d)
{
    struct piece *next = NULL;

    for (int i = 0; i < QUEUE; i++)
        if (d->pieces[i].state == PIECE_WAITS && (!next || d->pieces[i].number < next->number))
            next = &d->pieces[i];
    return next;
}

/* With the lock held, but for the time of the move. */
static void move_piece(struct disk *d, struct piece *p)
{
    struct err err = { 0 };
    int result = 0;

    p->state = PIECE_MOVES;
    if (!d->failed) {
        pthread_mutex_unlock(&d->lock);
        result = move(d, p->write, p->memory, p->offset, p->bytes, &err);
        pthread_mutex_lock(&d->lock);
    }
    if (result != 0 && !d->failed) {
        d->failed = true;
        d->failure = err;
    }
    p->state = PIECE_NONE;
    pthread_cond_broadcast(&d->ended);
}

static void *mover_main(void *argument)
{
    struct disk *d = argument;

    pthread_mutex_lock(&d->lock);
    for (;;) {
        struct piece *p = next_piece(d);

        if (p)
            move_piece(d, p);
        else if (d->closing)
            break;
        else
            pthread_cond_wait(&d->started, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static struct piece *free_piece(struct disk *d)
{
    for (int i = 0; i < QUEUE; i++)
        if (d->pieces[i].state == PIECE_NONE)
            return &d->pieces[i];
    return NULL;
}

static void start(struct disk *d, bool write, char *memory, size_t offset, size_t bytes)
{
    struct piece *p;

    MUST(bytes <= d->bytes && offset <= d->bytes - bytes);
    if (d->direct)
        bytes = (bytes + BLOCK - 1) / BLOCK * BLOCK; /* of the last piece: the buffer's own padding, in both places */
    pthread_mutex_lock(&d->lock);
    while (!(p = free_piece(d)))
        pthread_cond_wait(&d->ended, &d->lock);
    *p = (struct piece){ PIECE_WAITS, d->n_started++, write, memory, offset, bytes };
    pthread_cond_signal(&d->started);
    pthread_mutex_unlock(&d->lock);
}

void disk_read(struct disk *d, void *to, size_t offset, size_t bytes)
{
    start(d, false, to, offset, bytes);
}

void disk_write(struct disk *d, const void *from, size_t offset, size_t bytes)
{
    start(d, true, (char *)from, offset, bytes);
}

static bool is_moving(const struct disk *d, const void *memory)
{
    for (int i = 0; i < QUEUE; i++)
        if (d->pieces[i].state != PIECE_NONE && d->pieces[i].memory == memory)
            return true;
    return false;
}

int disk_wait(struct disk *d, const void *memory, struct err *err)
{
    pthread_mutex_lock(&d->lock);
    while (is_moving(d, memory))
        pthread_cond_wait(&d->ended, &d->lock);
    const bool failed = d->failed;
    if (failed)
        *err = d->failure;
    pthread_mutex_unlock(&d->lock);
    return failed ? -1 : 0;
}

/* ---- between programs ---- */

/* The blocks that hold offset .. offset+bytes, or as many of them as there is room for; returns how many of the bytes. */
static size_t window(size_t offset, size_t bytes, size_t *first, size_t *length)
{
    *first = offset / BLOCK * BLOCK;
    const size_t skipped = offset - *first, most = DISK_BOUNCE_BYTES - skipped, n = bytes < most ? bytes : most;
    *length = (skipped + n + BLOCK - 1) / BLOCK * BLOCK;
    return n;
}

int disk_get(struct disk *d, size_t offset, void *out, size_t bytes, struct err *err)
{
    size_t first, length;

    MUST(bytes <= d->bytes && offset <= d->bytes - bytes);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = window(offset + done, bytes - done, &first, &length);
        if (move(d, false, d->bounce, first, length, err) != 0)
            return -1;
        memcpy((char *)out + done, d->bounce + (offset + done - first), n);
    }
    return 0;
}

int disk_put(struct disk *d, size_t offset, const void *from, size_t bytes, struct err *err)
{
    size_t first, length;

    MUST(bytes <= d->bytes && offset <= d->bytes - bytes);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = window(offset + done, bytes - done, &first, &length);
        if (n < length && move(d, false, d->bounce, first, length, err) != 0) /* what stands beside it stays */
            return -1;
        memcpy(d->bounce + (offset + done - first), (const char *)from + done, n);
        if (move(d, true, d->bounce, first, length, err) != 0)
            return -1;
    }
    return 0;
}

/* ---- opening ---- */

/* Where the file system has no files without names, one that has lost it. */
static int open_named(const char *folder, int flags)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof path, "%s/.offload-XXXXXX", folder) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    const int file = mkostemp(path, flags);
    if (file >= 0)
        unlink(path);
    return file;
}

static int open_nameless(const char *folder, int flags)
{
    const int file = open(folder, O_TMPFILE | O_RDWR | O_EXCL | flags, 0600);

    return file < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT) ? open_named(folder, flags) : file;
}

static int open_file(struct disk *d, struct err *err)
{
    d->file = d->direct ? open_nameless(d->folder, O_CLOEXEC | O_DIRECT) : -1;
    if (d->file < 0) {
        d->direct = false;
        d->file = open_nameless(d->folder, O_CLOEXEC);
    }
    if (d->file >= 0)
        return 0;
    err_errno(err, "could not create the offload file in \"%s\"", d->folder);
    return err_hint(err, "Name a folder on a local disk with --offload_dir; it must be there, and yours to write to.");
}

static int no_space(const struct disk *d, struct err *err)
{
    struct err unknown;

    err_errno(err, "could not reserve %zu bytes for the offload file in \"%s\"", d->bytes, d->folder);
    err_where(err, "%" PRId64 " bytes are free there", file_free_bytes(d->folder, &unknown));
    return err_hint(err, "Free space there, or name a folder on another disk with --offload_dir.");
}

/* File systems that cannot reserve space take zeros, which is the same to the reader. */
static int write_zeros(struct disk *d, struct err *err)
{
    for (size_t at = 0; at < d->bytes;) {
        const size_t left = d->bytes - at, n = left < DISK_BOUNCE_BYTES ? left : DISK_BOUNCE_BYTES;
        const ssize_t done = call(d->file, true, d->bounce, n, at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return no_space(d, err);
        at += (size_t)done;
    }
    return 0;
}

static int reserve(struct disk *d, struct err *err)
{
    int result;

    do
        result = fallocate(d->file, 0, 0, (off_t)d->bytes);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? write_zeros(d, err) : no_space(d, err);
}

/* Some file systems take the flag and refuse the reads, or want larger blocks. */
static void try_direct(struct disk *d)
{
    if (d->direct && pread(d->file, d->bounce, BLOCK, 0) != (ssize_t)BLOCK) {
        d->direct = false;
        fcntl(d->file, F_SETFL, fcntl(d->file, F_GETFL) & ~O_DIRECT);
    }
}

static void tell_kind(const struct disk *d)
{
    static const long in_memory[] = { 0x01021994, 0x858458f6 }; /* tmpfs and ramfs: statfs(2) */
    struct statfs s;

    for (int i = 0; fstatfs(d->file, &s) == 0 && i < COUNT_OF(in_memory); i++)
        if ((long)s.f_type == in_memory[i])
            log_warning("\"%s\" is a folder in memory: what is offloaded there still takes memory", d->folder);
    log_detail("offload file in %s, %s", d->folder, d->direct ? "around the file system's cache" : "through its cache");
}

static int start_threads(struct disk *d, struct err *err)
{
    sigset_t all, old;
    int failed = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    while (d->n_threads < THREADS && !failed) {
        failed = pthread_create(&d->threads[d->n_threads], NULL, mover_main, d);
        d->n_threads += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = failed;
    return failed ? err_errno(err, "could not start a thread for the offload file") : 0;
}

static int open_whole(struct disk *d, struct err *err)
{
    d->bounce_memory = mem_array(1, 1, DISK_BOUNCE_BYTES + BLOCK, MEM_STORE, err);
    if (!d->bounce_memory)
        return -1;
    d->bounce = d->bounce_memory + (BLOCK - (uintptr_t)d->bounce_memory % BLOCK) % BLOCK;
    if (open_file(d, err) != 0 || reserve(d, err) != 0)
        return -1;
    try_direct(d);
    tell_kind(d);
    return start_threads(d, err);
}

int disk_open(struct disk **out, const char *folder, size_t bytes, bool direct, struct err *err)
{
    struct disk *d = mem_array(1, 1, sizeof *d, MEM_OTHER, err);

    *out = NULL;
    if (!d)
        return -1;
    MUST(bytes > 0 && bytes % BLOCK == 0);
    d->file = -1;
    d->bytes = bytes;
    d->direct = direct;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->started, NULL);
    pthread_cond_init(&d->ended, NULL);
    if (snprintf(d->folder, sizeof d->folder, "%s", folder) >= (int)sizeof d->folder)
        err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", folder);
    else if (open_whole(d, err) == 0) {
        *out = d;
        return 0;
    }
    disk_close(d);
    return -1;
}

void disk_close(struct disk *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    pthread_cond_broadcast(&d->started);
    pthread_mutex_unlock(&d->lock);
    for (int i = 0; i < d->n_threads; i++)
        pthread_join(d->threads[i], NULL);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->started);
    pthread_cond_destroy(&d->ended);
    if (d->file >= 0)
        close(d->file);
    mem_free(d->bounce_memory);
    mem_free(d);
}

size_t disk_bytes(const struct disk *d)
{
    struct stat s;

    return d && fstat(d->file, &s) == 0 ? (size_t)s.st_size : 0;
}

bool disk_is_direct(const struct disk *d)
{
    return d && d->direct;
}
