/* The file is removed at the end, by its owner and under the lock; so whoever gets a lock looks whether it is still the
 * folder's file that it locked. */
#include "run/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static int in_use(int file, const char *dir, struct err *err)
{
    char owner[160] = "";
    const ssize_t n = pread(file, owner, sizeof owner - 1, 0);

    owner[n > 0 ? strcspn(owner, "\n") : 0] = '\0';
    err_set(err, ERR_USAGE, "another run writes to \"%s\": %s", dir, owner[0] ? owner : "a process that just begins");
    return err_hint(err, "Wait for it, stop it, or choose another --output.");
}

static bool is_at(int file, const char *path)
{
    struct stat held, there;

    return fstat(file, &held) == 0 && stat(path, &there) == 0 && held.st_ino == there.st_ino &&
           held.st_dev == there.st_dev;
}

static int write_owner(int file)
{
    char host[64] = "an unknown machine", text[160];

    gethostname(host, sizeof host - 1);
    const int n = snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(), host);
    return ftruncate(file, 0) == 0 && pwrite(file, text, (size_t)n, 0) == n ? 0 : -1;
}

/* Some network file systems have no locks: the run is as good without. */
static int cannot_lock(const char *path)
{
    log_warning("\"%s\" cannot be locked (%s): see to it that no other run writes there", path, strerror(errno));
    unlink(path);
    return 0;
}

int lock_take(struct run_lock *l, const char *dir, struct err *err)
{
    *l = (struct run_lock){ 0 };
    if (file_join(l->path, dir, "run.lock", err) != 0)
        return -1;
    for (;;) {
        const int file = open(l->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (file < 0)
            return err_errno(err, "could not write \"%s\"", l->path);
        if (flock(file, LOCK_EX | LOCK_NB) != 0) {
            const int result = errno == EWOULDBLOCK ? in_use(file, dir, err) : cannot_lock(l->path);
            close(file);
            return result;
        }
        if (is_at(file, l->path)) {
            l->is_held = true;
            l->file = file;
            return write_owner(file) == 0 ? 0 : err_errno(err, "could not write \"%s\"", l->path);
        }
        close(file);
    }
}

void lock_release(struct run_lock *l)
{
    if (!l->is_held)
        return;
    unlink(l->path);
    close(l->file);
    *l = (struct run_lock){ 0 };
}
