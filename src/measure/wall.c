/* The file is followed from where it ends when the meter is opened. A command's output goes to a file of our own, so that
 * both are one case; it is stopped when the meter is closed. */
#include "measure/wall.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "measure/channel.h"

#define MAX_WATTS 1e6
#define CLOCK_APART_S 10.0 /* more than this and its clock is another one */
#define SILENT_S 5.0
#define FIRST_LINE_S 3.0 /* that a command may take to say something */
#define MAX_WORDS 64

struct wall {
    int fd;
    pid_t pid;
    char line[256]; /* the beginning of one that is not whole yet */
    size_t n_line;
    bool too_long; /* skip to its end */
    struct wall_trace trace;
    double seen_s; /* when the latest line came */
    bool other_clock;
};

static double real_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- lines ---- */

static bool parse_time(const char *text, const char **end, double *out)
{
    struct tm tm = { 0 };
    char *stop;

    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (rest) {
        const double fraction = *rest == '.' ? strtod(rest, &stop) : (stop = (char *)rest, 0);
        if (*stop != 'Z')
            return false; /* a time of day without its zone is a guess */
        *out = (double)timegm(&tm) + fraction;
        *end = stop + 1;
        return true;
    }
    *out = strtod(text, &stop);
    *end = stop;
    if (*out > 1e11)
        *out *= 1e-3;
    return stop != text && isfinite(*out) && *out >= 0;
}

bool wall_parse(const char *line, double *time_s, double *watts)
{
    const char *c = line + strspn(line, " \t\""), *end;
    double first;
    char *stop;

    *time_s = NAN;
    if (!parse_time(c, &end, &first))
        return false;
    c = end + strspn(end, " \t,;\"\r");
    if (!*c) { /* one number alone: the power */
        *watts = strtod(line + strspn(line, " \t\""), &stop);
        return *watts >= 0 && *watts <= MAX_WATTS;
    }
    *time_s = first;
    *watts = strtod(c, &stop);
    return first >= 0 && stop != c && isfinite(*watts) && *watts >= 0 && *watts <= MAX_WATTS;
}

void wall_add(struct wall_trace *t, double time_s, double watts)
{
    if (t->n > 0 && !(time_s > t->time_s))
        return;
    if (t->n == 0 && time_s > t->start_s) {
        t->joules = watts * (time_s - t->start_s); /* held back to the window's start */
    } else if (t->n > 0 && time_s > t->start_s) {
        const double from_s = fmax(t->time_s, t->start_s);
        const double share = (from_s - t->time_s) / (time_s - t->time_s);
        const double from_w = t->watts + share * (watts - t->watts);

        t->joules += 0.5 * (from_w + watts) * (time_s - from_s);
    }
    t->time_s = time_s;
    t->watts = watts;
    t->n++;
}

double wall_joules(const struct wall_trace *t, double now_s)
{
    return t->n == 0 ? NAN : t->joules + t->watts * fmax(0, now_s - fmax(t->time_s, t->start_s));
}

/* ---- following ---- */

static void take_line(struct wall *w, double now_s)
{
    double time_s, watts;

    w->line[w->n_line] = '\0';
    if (!wall_parse(w->line, &time_s, &watts))
        return;
    if (!isnan(time_s) && fabs(time_s - now_s) > CLOCK_APART_S) {
        w->other_clock = true;
        return;
    }
    w->seen_s = now_s;
    wall_add(&w->trace, isnan(time_s) ? now_s : time_s, watts);
}

static void follow(struct wall *w)
{
    char text[4096];
    ssize_t n;

    while ((n = read(w->fd, text, sizeof text)) > 0) {
        const double now_s = real_seconds();

        for (ssize_t i = 0; i < n; i++) {
            if (text[i] == '\n') {
                if (!w->too_long)
                    take_line(w, now_s);
                w->n_line = 0;
                w->too_long = false;
            } else if (w->n_line < sizeof w->line - 1) {
                w->line[w->n_line++] = text[i];
            } else {
                w->too_long = true;
            }
        }
    }
}

static int read_channel(const struct channel *c, struct channel_reading *out)
{
    struct wall *w = c->own;

    follow(w);
    const double now_s = real_seconds();
    if (w->trace.n == 0)
        return w->other_clock ? -ETIME : -ENODATA;
    if (now_s - w->seen_s > SILENT_S)
        return -ENODATA;
    out->power_w = w->trace.watts;
    out->joules = wall_joules(&w->trace, now_s);
    return 0;
}

/* ---- opening ---- */

static int start_command(struct wall *w, const char *text)
{
    char path[] = "/tmp/tuneup-wall-XXXXXX", words[2048], *argv[MAX_WORDS + 1], *save = NULL;
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none;
    int n = 0;

    if ((size_t)snprintf(words, sizeof words, "%s", text) >= sizeof words)
        return -ENAMETOOLONG;
    for (char *word = strtok_r(words, " ", &save); word && n < MAX_WORDS; word = strtok_r(NULL, " ", &save))
        argv[n++] = word;
    argv[n] = NULL;
    if (n == 0)
        return -EINVAL;
    const int out = mkostemp(path, O_APPEND | O_CLOEXEC);
    if (out < 0)
        return -errno;
    w->fd = open(path, O_RDONLY | O_CLOEXEC);
    unlink(path);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attr, &none); /* the meter holds signals back, for the measured command */
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK); /* a terminal's are not for it */
    const int status = w->fd < 0 ? errno : posix_spawnp(&w->pid, argv[0], &files, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    close(out);
    return -status;
}

static int open_file(struct wall *w, const char *path)
{
    struct stat s;

    w->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (w->fd < 0 || fstat(w->fd, &s) != 0)
        return -errno;
    if (!S_ISREG(s.st_mode))
        return -EINVAL;
    return lseek(w->fd, 0, SEEK_END) < 0 ? -errno : 0;
}

/* The window begins with a reading, or would begin with a guess. */
static void await_first_line(struct wall *w)
{
    const double until_s = real_seconds() + FIRST_LINE_S;
    const struct timespec pause = { .tv_nsec = 20000000 };

    while (w->trace.n == 0 && !w->other_clock && real_seconds() < until_s) {
        follow(w);
        nanosleep(&pause, NULL);
    }
}

static void open_source(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f)
{
    struct err err;

    if (!o->wall)
        return;
    struct wall *w = mem_array(1, 1, sizeof *w, MEM_RECORD, &err);
    struct channel *c = channel_add(set, &wall_source, w, "wall");
    if (!w || !c) {
        mem_free(w);
        return;
    }
    w->fd = -1;
    *own = w;
    c->role = CHANNEL_CONTAINS_ALL;
    c->every_s = 0.1;
    c->update_s = 0.1;
    const int status = strncmp(o->wall, "cmd:", 4) == 0 ? start_command(w, o->wall + 4) : open_file(w, o->wall);
    if (status == 0)
        await_first_line(w);
    c->first_error = -status;
    w->trace = (struct wall_trace){
        .start_s = real_seconds(), .n = w->trace.n, .time_s = w->trace.time_s, .watts = w->trace.watts
    };
    channel_start(c);
    if (c->first_error == ETIME)
        snprintf(f->why, sizeof f->why, "the wall meter's times are more than %.0f s from this machine's clock",
                 CLOCK_APART_S);
    else if (c->first_error != 0)
        snprintf(f->why, sizeof f->why, "the wall meter gives no readings: %s", strerror(c->first_error));
    if (c->first_error != 0)
        snprintf(f->hint, sizeof f->hint,
                 "It is to write a line \"SECONDS,WATTS\" or \"WATTS\" at least every %.0f s while the command runs.",
                 SILENT_S);
}

static void close_source(void *own)
{
    struct wall *w = own;

    if (w->fd >= 0)
        close(w->fd);
    if (w->pid > 0) {
        kill(-w->pid, SIGTERM);
        kill(w->pid, SIGKILL);
        waitpid(w->pid, NULL, 0);
    }
    mem_free(w);
}

pid_t wall_helper(const void *own)
{
    return ((const struct wall *)own)->pid;
}

const struct energy_source wall_source = {
    .name = "wall", .device = true, .open = open_source, .read = read_channel, .close = close_source
};
