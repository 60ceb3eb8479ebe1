/* Input: open, fstat, refuse what is not a regular file, then map or read. Output: temporary name, fsync, rename, fsync
 * of the folder. The SIGBUS handler is the one place that ends the program outside cli/main.c: a mapped file that
 * shrinks under us cannot be reported any other way. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

#define MAX_MAPS 64

static struct mapped {
    _Atomic(const unsigned char *) data;
    size_t bytes;
    char path[512];
} mapped[MAX_MAPS];

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return;
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    const unsigned char *at = info->si_addr;

    (void)context;
    for (int i = 0; i < MAX_MAPS; i++) {
        const unsigned char *data = atomic_load(&mapped[i].data);
        if (data && at >= data && at < data + mapped[i].bytes) {
            say("tuneup: error: file \"");
            say(mapped[i].path);
            say("\" became shorter, or could not be read, while it was in use. Restore it and run again.\n");
            _exit(1);
        }
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static const char *kind_of(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a folder";
    if (S_ISFIFO(mode))
        return "a FIFO";
    if (S_ISSOCK(mode))
        return "a socket";
    if (S_ISCHR(mode) || S_ISBLK(mode))
        return "a device";
    return "not a regular file";
}

/* O_NONBLOCK: opening a FIFO without a writer must not hang before it can be refused. */
static int open_regular(const char *path, struct stat *st, struct err *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        err_errno(err, "could not open \"%s\"", path);
        err->code = ERR_INPUT;
        return -1;
    }
    if (fstat(fd, st) != 0) {
        err_errno(err, "could not examine \"%s\"", path);
        close(fd);
        return -1;
    }
    if (!S_ISREG(st->st_mode)) {
        err_set(err, ERR_INPUT, "\"%s\" is %s, a regular file is needed", path, kind_of(st->st_mode));
        close(fd);
        return -1;
    }
    return fd;
}

static int64_t modified_ns(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

int file_map_open(struct file_map *m, const char *path, struct err *err)
{
    static atomic_bool handler_set;
    struct stat st;
    int slot = 0;
    const unsigned char *none = NULL;

    *m = (struct file_map){ .slot = -1 };
    const int fd = open_regular(path, &st, err);
    if (fd < 0)
        return -1;
    if (st.st_size == 0) {
        close(fd);
        return 0;
    }
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        err_errno(err, "could not map \"%s\"", path);
        close(fd);
        return -1;
    }
    if (!atomic_exchange(&handler_set, true)) {
        struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
        sigaction(SIGBUS, &action, NULL);
    }
    while (slot < MAX_MAPS && !atomic_compare_exchange_strong(&mapped[slot].data, &none, data)) {
        none = NULL;
        slot++;
    }
    if (slot == MAX_MAPS) {
        munmap(data, (size_t)st.st_size);
        close(fd);
        return err_set(err, ERR_INPUT, "more than %d files are open at once, at \"%s\"", MAX_MAPS, path);
    }
    mapped[slot].bytes = (size_t)st.st_size;
    snprintf(mapped[slot].path, sizeof mapped[slot].path, "%s", path);
    *m = (struct file_map){
        .data = data, .bytes = (size_t)st.st_size, .slot = slot, .fd = fd, .modified_ns = modified_ns(&st)
    };
    return 0;
}

void file_map_close(struct file_map *m)
{
    if (m->data) {
        atomic_store(&mapped[m->slot].data, NULL);
        munmap((void *)m->data, m->bytes);
        close(m->fd);
    }
    *m = (struct file_map){ .slot = -1 };
}

bool file_map_is_unchanged(const struct file_map *m)
{
    struct stat st;

    return !m->data || (fstat(m->fd, &st) == 0 && (size_t)st.st_size == m->bytes && modified_ns(&st) == m->modified_ns);
}

char *file_read(const char *path, size_t max_bytes, size_t *n, struct err *err)
{
    FILE *f = file_open_read(path, err);
    struct stat st;
    char *text = NULL;

    if (!f)
        return NULL;
    if (fstat(fileno(f), &st) != 0) {
        err_errno(err, "could not examine \"%s\"", path);
    } else if ((size_t)st.st_size > max_bytes) {
        err_set(err, ERR_INPUT, "\"%s\" has %lld bytes, at most %zu are accepted", path, (long long)st.st_size,
                max_bytes);
    } else if ((text = mem_array(st.st_size + 1, 1, 1, MEM_OTHER, err)) != NULL) {
        *n = fread(text, 1, (size_t)st.st_size, f);
        if (ferror(f)) {
            err_errno(err, "could not read \"%s\"", path);
            mem_free(text);
            text = NULL;
        }
    }
    fclose(f);
    return text;
}

FILE *file_open_read(const char *path, struct err *err)
{
    struct stat st;
    const int fd = open_regular(path, &st, err);

    if (fd < 0)
        return NULL;
    FILE *f = fdopen(fd, "rb");
    if (!f) {
        err_errno(err, "could not read \"%s\"", path);
        close(fd);
    }
    return f;
}

int file_out_open(struct file_out *o, const char *path, struct err *err)
{
    *o = (struct file_out){ 0 };
    if ((size_t)snprintf(o->path, sizeof o->path, "%s", path) >= sizeof o->path ||
        (size_t)snprintf(o->temporary, sizeof o->temporary, "%s.XXXXXX", path) >= sizeof o->temporary)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", path);
    const int fd = mkostemp(o->temporary, O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, "could not create a file beside \"%s\"", path);
    const mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask); /* mkstemp's 0600 is for while the file is incomplete */
    o->stream = fdopen(fd, "wb");
    if (!o->stream) {
        err_errno(err, "could not write \"%s\"", path);
        close(fd);
        unlink(o->temporary);
        return -1;
    }
    return 0;
}

static void parent_of(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        snprintf(out, size, ".");
    else
        snprintf(out, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

int file_out_commit(struct file_out *o, struct err *err)
{
    char folder[FILE_PATH_MAX];
    FILE *stream = o->stream;

    o->stream = NULL;
    if (fflush(stream) != 0 || fsync(fileno(stream)) != 0) {
        err_errno(err, "could not write \"%s\"", o->path);
        fclose(stream);
        unlink(o->temporary);
        return -1;
    }
    fclose(stream);
    if (rename(o->temporary, o->path) != 0) {
        err_errno(err, "could not put \"%s\" in its place", o->path);
        unlink(o->temporary);
        return -1;
    }
    parent_of(o->path, folder, sizeof folder);
    return file_sync_dir(folder, err);
}

void file_out_abort(struct file_out *o)
{
    if (!o->stream)
        return;
    fclose(o->stream);
    unlink(o->temporary);
    o->stream = NULL;
}

int file_make_dir(const char *path, struct err *err)
{
    char part[FILE_PATH_MAX];

    if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", path);
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        const char end = *p;
        *p = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return err_errno(err, "could not create the folder \"%s\"", part);
        *p = end;
        if (end == '\0')
            break;
    }
    if (!file_is_dir(path))
        return err_set(err, ERR_USAGE, "\"%s\" is there and is not a folder", path);
    return 0;
}

bool file_exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool file_is_same(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int file_sync_dir(const char *path, struct err *err)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return err_errno(err, "could not open the folder \"%s\"", path);
    const int failed = fsync(fd) != 0 && errno != EINVAL; /* EINVAL: a file system without it */
    if (failed)
        err_errno(err, "could not sync the folder \"%s\"", path);
    close(fd);
    return failed ? -1 : 0;
}

int file_remove_tree(const char *path, struct err *err)
{
    DIR *d = opendir(path);
    int failed = 0;

    if (!d)
        return errno == ENOENT ? 0 : err_errno(err, "could not open the folder \"%s\"", path);
    for (struct dirent *e; !failed && (e = readdir(d)) != NULL;) {
        char child[FILE_PATH_MAX];
        struct stat st;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        failed = file_join(child, path, e->d_name, err);
        if (failed || lstat(child, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode))
            failed = file_remove_tree(child, err);
        else if (unlink(child) != 0)
            failed = err_errno(err, "could not remove \"%s\"", child);
    }
    closedir(d);
    if (!failed && rmdir(path) != 0)
        failed = err_errno(err, "could not remove the folder \"%s\"", path);
    return failed;
}

int file_join(char *out, const char *folder, const char *name, struct err *err)
{
    if (snprintf(out, FILE_PATH_MAX, "%s/%s", folder, name) >= FILE_PATH_MAX)
        return err_set(err, ERR_INPUT, "the path \"%.80s.../%.80s\" is too long", folder, name);
    return 0;
}

int64_t file_free_bytes(const char *path, struct err *err)
{
    char at[FILE_PATH_MAX];
    struct statvfs vfs;

    snprintf(at, sizeof at, "%s", path);
    while (statvfs(at, &vfs) != 0) {
        char parent[FILE_PATH_MAX];

        parent_of(at, parent, sizeof parent);
        if (errno != ENOENT || strcmp(parent, at) == 0)
            return err_errno(err, "could not examine the file system of \"%s\"", path);
        memcpy(at, parent, sizeof at);
    }
    return (int64_t)vfs.f_bavail * (int64_t)vfs.f_frsize;
}
