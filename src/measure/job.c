/* The calling thread waits for signals with a timeout, which is at once how it learns of the command's end, how it
 * passes signals on without handlers, and how it comes round to take the next reading. The command is only read after
 * its exec: before, it still shares the memory of this process, however fat that is. */
#include "measure/job.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/clock.h"
#include "measure/machine.h"
#include "measure/memory.h"
#include "measure/steps.h"
#include "measure/sysfile.h"

#define GRACE_S 5.0 /* between SIGTERM and SIGKILL */
#define CLEAN_UP_S 2.0 /* to see what was killed end */
#define SCAN_S 1.0
#define FIRST_SCAN_S 0.1 /* a shorter command is spared the search */
#define SCAN_SHARE 0.002 /* of one CPU, for searching all of /proc */
#define FOLLOW_SHARE 0.0015 /* for the lists of children: a process with hundreds of threads has as many */
#define TRACE_S 0.2 /* between two lines of a trace */

static const int passed_on[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 };

struct job {
    const struct job_options *options;
    struct job_record *record;
    char run_id[40];
    char **env; /* owned, its strings are borrowed but for the first */
    char *marker; /* owned: env[0] */
    sigset_t waited, old_mask;
    struct sigaction old_child;
    int old_subreaper;
    pid_t pid;
    int status; /* of waitpid */
    double start_s;
    int kill_step; /* 0 = running, 1 = SIGTERM sent, 2 = SIGKILL sent */
    struct memory_members members;
    struct memory_pace pace;
    struct memory_reading latest;
    double tick_cost_s, scan_s, follow_s; /* when all of /proc may be searched again; when the lists of children */
    bool followed; /* lists of children are to be had */
    struct energy_meter *energy; /* NULL: it could not be opened */
    double traced_s, traced_j; /* the last line's of the trace; NAN = none yet */
    double noted_s, noted_j; /* the last point's of the timeline */
    int64_t high_bytes; /* of the readings since; -1 */
};

/* ---- what the child gets ---- */

static void make_run_id(char *out, size_t size)
{
    uint64_t random = 0;

    if (getrandom(&random, sizeof random, GRND_NONBLOCK) < 0)
        random = (uint64_t)(clock_seconds() * 1e9);
    snprintf(out, size, "%ld-%016llx", (long)getpid(), (unsigned long long)random);
}

static bool same_variable(const char *a, const char *b)
{
    const size_t n = strcspn(a, "=");

    return strcspn(b, "=") == n && strncmp(a, b, n) == 0;
}

static int build_env(struct job *j, struct err *err)
{
    const char *const *extra = j->options->extra_env;
    const struct steps *steps = j->options->steps;
    int64_t n = 0, n_extra = 0, used = 0;

    while (environ && environ[n])
        n++;
    while (extra && extra[n_extra])
        n_extra++;
    j->marker = mem_printf(MEM_RECORD, err, "TUNEUP_RUN=%s", j->run_id);
    j->env = j->marker ? mem_array(n + n_extra + 4, 1, sizeof *j->env, MEM_RECORD, err) : NULL;
    if (!j->env)
        return -1;
    j->env[used++] = j->marker;
    if (steps)
        j->env[used++] = (char *)steps->file_env;
    if (steps && steps->fd_env[0])
        j->env[used++] = (char *)steps->fd_env;
    for (int64_t i = 0; i < n_extra; i++)
        j->env[used++] = (char *)extra[i];
    const int64_t n_new = used;
    for (int64_t i = 0; i < n; i++) {
        bool replaced = false;
        for (int64_t k = 0; k < n_new && !replaced; k++)
            replaced = same_variable(environ[i], j->env[k]);
        if (!replaced)
            j->env[used++] = environ[i];
    }
    return 0;
}

static int redirect(const char *path, int flags, int to)
{
    if (!path)
        return 0;
    const int fd = open(path, flags | O_NOCTTY, 0666);
    if (fd < 0)
        return -1;
    if (fd != to && (dup2(fd, to) < 0 || close(fd) != 0))
        return -1;
    return 0;
}

struct start_failure {
    int number; /* errno */
    char step; /* 'i', 'o', 'e': redirections; 'x': exec */
};

/* In the child: only what may be called after a fork. */
static _Noreturn void child(const struct job *j, char *const argv[], int failure_fd)
{
    const struct job_options *o = j->options;
    struct start_failure f = { 0 };

    if (o->own_group)
        setpgid(0, 0);
    sigaction(SIGCHLD, &j->old_child, NULL);
    pthread_sigmask(SIG_SETMASK, &j->old_mask, NULL);
    if (redirect(o->stdin_path, O_RDONLY, STDIN_FILENO) != 0)
        f.step = 'i';
    else if (redirect(o->stdout_path, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO) != 0)
        f.step = 'o';
    else if (redirect(o->stderr_path, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO) != 0)
        f.step = 'e';
    else {
        execvpe(argv[0], argv, j->env);
        f.step = 'x';
    }
    f.number = errno;
    if (write(failure_fd, &f, sizeof f) < 0)
        _exit(124);
    _exit(125);
}

static int say_failure(const struct job *j, const struct start_failure *f, const char *name, struct err *err)
{
    const struct job_options *o = j->options;

    errno = f->number;
    if (f->step != 'x')
        return err_errno(err, "could not open \"%s\" for the command",
                         f->step == 'i'   ? o->stdin_path
                         : f->step == 'o' ? o->stdout_path
                                          : o->stderr_path);
    j->record->exit_status = f->number == ENOENT ? 127 : 126;
    err_errno(err, "could not run \"%s\"", name);
    return err_hint(err, f->number == ENOENT ? "Check the spelling and PATH, or give the program's full path."
                                             : "Check that the file is a program and may be executed.");
}

/* Returns once the command has been executed, or has failed to be. */
static int start(struct job *j, char *const argv[], struct err *err)
{
    struct start_failure f;
    int ends[2];
    ssize_t got;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_errno(err, "could not make a pipe");
    j->start_s = clock_seconds();
    j->pid = fork();
    if (j->pid == 0)
        child(j, argv, ends[1]);
    close(ends[1]);
    if (j->pid < 0) {
        err_errno(err, "could not start a process");
        close(ends[0]);
        return -1;
    }
    if (j->options->own_group)
        setpgid(j->pid, j->pid); /* whoever comes first */
    do
        got = read(ends[0], &f, sizeof f);
    while (got < 0 && errno == EINTR);
    close(ends[0]);
    if (got != (ssize_t)sizeof f)
        return 0;
    waitpid(j->pid, NULL, 0);
    return say_failure(j, &f, argv[0], err);
}

/* ---- while it runs ---- */

static void keep_peak(struct job *j, const struct memory_reading *r, int n)
{
    struct job_record *out = j->record;

    if (n == 0)
        return;
    out->n_samples++;
    j->latest = *r;
    if (r->anon_bytes > j->high_bytes)
        j->high_bytes = r->anon_bytes;
    if (r->anon_bytes > out->peak_bytes)
        out->peak_bytes = r->anon_bytes;
    if (r->pss_bytes > out->peak_pss_bytes)
        out->peak_pss_bytes = r->pss_bytes;
    if (n > out->n_processes)
        out->n_processes = n;
    if (r->n_unreadable > out->n_unreadable)
        out->n_unreadable = r->n_unreadable;
}

/* The lists of children lead to nearly all. What they do not lead to is searched for in all of /proc, once a second at most and
 * not in the first moments. Each search pays for itself by the time until the next. */
static void follow_members(struct job *j, double now_s)
{
    const double before_s = clock_thread_cpu_seconds();

    if (!j->followed || now_s < j->follow_s)
        return;
    j->followed = memory_members_follow(&j->members, getpid()) == 0;
    j->follow_s = now_s + (clock_thread_cpu_seconds() - before_s) / FOLLOW_SHARE;
}

static int scan_members(struct job *j, double now_s)
{
    const double before_s = clock_thread_cpu_seconds();
    struct err ignored; /* a failing meter does not stop the command: n_samples tells */

    if (j->followed && now_s < j->scan_s)
        return 0;
    const int status = memory_members_scan(&j->members, getpid(), j->run_id, &ignored);
    j->scan_s = now_s + fmax(SCAN_S, (clock_thread_cpu_seconds() - before_s) / SCAN_SHARE);
    j->followed = status == 0 && memory_members_follow(&j->members, getpid()) == 0;
    return status;
}

static void sample(struct job *j)
{
    const double start_s = clock_thread_cpu_seconds(), now_s = clock_seconds();
    struct memory_reading r;

    follow_members(j, now_s);
    const double before_s = clock_thread_cpu_seconds();
    const bool due = memory_pace_due(&j->pace, now_s, memory_members_rss(&j->members));
    j->tick_cost_s = clock_thread_cpu_seconds() - before_s;
    if (due && scan_members(j, now_s) == 0) {
        const int n = memory_members_read(&j->members, &r);
        keep_peak(j, &r, n);
        if (j->energy)
            energy_note_processes(j->energy, j->members.pids, j->members.n);
    }
    memory_pace_spent(&j->pace, now_s, clock_thread_cpu_seconds() - start_s, due);
}

/* Seconds, memory and mean power since the line before; what is unknown is empty. */
static void trace_line(struct job *j, double now_s, double joules, int64_t gpu_bytes)
{
    const double watts = (joules - j->traced_j) / (now_s - j->traced_s);
    FILE *out = j->options->trace;

    fprintf(out, "%.3f,", now_s);
    if (j->record->n_samples > 0)
        fprintf(out, "%" PRId64 ",%" PRId64, j->latest.anon_bytes, j->latest.pss_bytes);
    else
        fprintf(out, ",");
    fprintf(out, ",%d,", j->members.n);
    if (isfinite(watts))
        fprintf(out, "%.3f", watts);
    fprintf(out, gpu_bytes >= 0 ? ",%" PRId64 "\n" : ",\n", gpu_bytes);
    j->traced_s = now_s;
    j->traced_j = joules;
}

static void note_point(struct job *j, double now_s, double joules, int64_t gpu_bytes)
{
    const double watts = (joules - j->noted_j) / (now_s - j->noted_s);
    const struct timeline_point p = { .seconds = now_s,
                                      .memory_bytes = j->high_bytes,
                                      .gpu_bytes = gpu_bytes,
                                      .watts = isfinite(watts) && watts >= 0 ? watts : NAN };

    timeline_add(&j->record->timeline, &p);
    j->noted_s = now_s;
    j->noted_j = joules;
    j->high_bytes = -1;
}

static void trace(struct job *j)
{
    const double now_s = clock_seconds() - j->start_s;
    const bool line = j->options->trace && (isnan(j->traced_s) || now_s - j->traced_s >= TRACE_S);
    const bool point = now_s - j->noted_s >= timeline_every(&j->record->timeline);
    double joules = NAN;

    if (!line && !point)
        return;
    if (j->energy) {
        struct energy_result r;
        energy_read(j->energy, &r);
        joules = r.joules;
    }
    const int64_t gpu_bytes = j->energy ? energy_gpu_bytes(j->energy) : -1;
    if (line)
        trace_line(j, now_s, joules, gpu_bytes);
    if (point)
        note_point(j, now_s, joules, gpu_bytes);
}

/* Orphans become our children, as subreaper; their zombies are ours to bury. */
static void reap_orphans(struct job *j)
{
    for (int i = 0; i < j->members.n; i++)
        if (j->members.pids[i] != j->pid)
            waitpid(j->members.pids[i], NULL, WNOHANG);
}

static void signal_job(const struct job *j, int number)
{
    kill(j->options->own_group ? -j->pid : j->pid, number);
}

/* What a terminal sends goes to its whole foreground group, and so has reached the command already. */
static void pass_on(struct job *j, const siginfo_t *info)
{
    if (info->si_code == SI_KERNEL && !j->options->own_group)
        return;
    j->record->passed_signal = info->si_signo;
    signal_job(j, info->si_signo);
}

static void kill_members(const struct job *j, int number)
{
    for (int i = 0; i < j->members.n; i++)
        kill(j->members.pids[i], number);
}

static void enforce_timeout(struct job *j, double passed_s)
{
    if (j->options->timeout_s <= 0)
        return;
    if (j->kill_step == 0 && passed_s >= j->options->timeout_s) {
        j->record->timed_out = true;
        j->kill_step = 1;
        signal_job(j, SIGTERM);
        signal_job(j, SIGCONT); /* a stopped process would not see it */
    } else if (j->kill_step == 1 && passed_s >= j->options->timeout_s + GRACE_S) {
        j->kill_step = 2;
        signal_job(j, SIGKILL);
        kill_members(j, SIGKILL);
    }
}

/* news: the command has told something, which steps_poll may have put off for a moment. */
static double time_to_wait(const struct job *j, double passed_s, bool news)
{
    double wait_s = fmin(memory_pace_wait(j->tick_cost_s), news ? STEPS_AGAIN_S : INFINITY);

    if (j->options->timeout_s > 0 && j->kill_step < 2) {
        const double left_s = j->options->timeout_s + (j->kill_step ? GRACE_S : 0) - passed_s;
        wait_s = fmin(wait_s, fmax(left_s, 0.001));
    }
    return wait_s;
}

/* Steps are watched for from the second look on: to close a watch takes the kernel some milliseconds, which a command that
 * is over at once is spared. */
static void follow(struct job *j)
{
    j->followed = true; /* until that fails */
    j->scan_s = j->start_s + FIRST_SCAN_S;
    bool news = false;

    for (int64_t look = 0; waitpid(j->pid, &j->status, WNOHANG) == 0; look++) {
        siginfo_t info;

        if (look == 1 && j->options->steps)
            steps_watch(j->options->steps);
        sample(j);
        trace(j);
        if (j->options->steps)
            steps_poll(j->options->steps, j->energy, false);
        const double passed_s = clock_seconds() - j->start_s;
        enforce_timeout(j, passed_s);
        const double wait_s = time_to_wait(j, passed_s, news);
        const struct timespec wait = { .tv_nsec = (long)(wait_s * 1e9) };
        const int number = sigtimedwait(&j->waited, &info, &wait);
        news = number == SIGIO;
        if (number == SIGCHLD)
            reap_orphans(j);
        else if (number > 0 && number != SIGIO)
            pass_on(j, &info);
    }
    j->record->seconds = clock_seconds() - j->start_s;
    if (j->options->steps)
        steps_poll(j->options->steps, j->energy, true);
}

/* Launchers put ranks into groups of their own, so the tree is killed process by process until none is left. */
static void clean_up(struct job *j)
{
    const double until_s = clock_seconds() + CLEAN_UP_S;
    struct err ignored;

    kill(-j->pid, SIGKILL);
    while (memory_members_scan(&j->members, getpid(), j->run_id, &ignored) == 0 && j->members.n > 0 &&
           clock_seconds() < until_s) {
        const struct timespec pause = { .tv_nsec = 5000000 };

        kill_members(j, SIGKILL);
        reap_orphans(j);
        nanosleep(&pause, NULL);
    }
}

/* ---- before and after ---- */

/* A signal that is ignored stays ignored: nohup's SIGHUP is not for the command either. */
static void hold_signals(struct job *j)
{
    const struct sigaction standard = { .sa_handler = SIG_DFL };

    sigemptyset(&j->waited);
    sigaddset(&j->waited, SIGCHLD);
    sigaddset(&j->waited, SIGIO); /* new lines of the command's own metrics */
    for (int i = 0; i < COUNT_OF(passed_on); i++) {
        struct sigaction now;
        if (sigaction(passed_on[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            sigaddset(&j->waited, passed_on[i]);
    }
    sigaction(SIGCHLD, &standard, &j->old_child); /* ignored, it would bury the command before its status is read */
    pthread_sigmask(SIG_BLOCK, &j->waited, &j->old_mask);
    if (prctl(PR_GET_CHILD_SUBREAPER, &j->old_subreaper) != 0)
        j->old_subreaper = 0;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static void release_signals(const struct job *j)
{
    const struct timespec none = { 0 };
    sigset_t own;

    sigemptyset(&own);
    sigaddset(&own, SIGCHLD);
    sigaddset(&own, SIGIO);
    while (sigtimedwait(&own, NULL, &none) > 0)
        continue; /* those of the command are not the caller's */
    prctl(PR_SET_CHILD_SUBREAPER, (unsigned long)j->old_subreaper);
    sigaction(SIGCHLD, &j->old_child, NULL);
    pthread_sigmask(SIG_SETMASK, &j->old_mask, NULL);
}

static double cpu_of(const struct rusage *u)
{
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           1e-6 * (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec);
}

/* CPU of a process that is still there, as a daemon may be. */
static double cpu_of_process(pid_t pid)
{
    char path[FILE_PATH_MAX], text[1024];
    unsigned long long user, system;

    if (sysfile_path(path, SYSFILE_PROC, "%d/stat", (int)pid) != 0 || sysfile_read(path, text, sizeof text) <= 0)
        return 0;
    const char *c = strrchr(text, ')');
    if (!c || sscanf(c + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu", &user, &system) != 2)
        return 0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* What the command's processes used between two looks at those that were waited for, and what its daemons use still. */
static void account(struct job *j, const struct rusage *before)
{
    struct job_record *out = j->record;
    struct rusage after;
    struct err ignored;

    getrusage(RUSAGE_CHILDREN, &after);
    out->cpu_seconds = cpu_of(&after) - cpu_of(before);
    out->n_switches = after.ru_nvcsw - before->ru_nvcsw;
    out->n_preemptions = after.ru_nivcsw - before->ru_nivcsw;
    out->read_bytes = 512 * (int64_t)(after.ru_inblock - before->ru_inblock);
    out->written_bytes = 512 * (int64_t)(after.ru_oublock - before->ru_oublock);
    if (memory_members_follow(&j->members, getpid()) != 0 &&
        memory_members_scan(&j->members, getpid(), j->run_id, &ignored) != 0)
        return;
    for (int i = 0; i < j->members.n; i++)
        out->cpu_seconds += cpu_of_process(j->members.pids[i]);
}

static void start_energy(struct job *j)
{
    static const struct energy_options all = { .devices = true };
    struct err err;

    if (energy_open(&j->energy, j->options->energy ? j->options->energy : &all, &err) != 0)
        snprintf(j->record->energy.reason, sizeof j->record->energy.reason, "%.255s", err.what);
    j->members.except = energy_helper(j->energy);
}

static void stop_energy(struct job *j)
{
    if (j->energy)
        energy_stop(j->energy);
    j->energy = NULL;
}

static void finish(struct job *j)
{
    struct job_record *out = j->record;
    struct memory_reading own;
    struct err ignored;

    if (out->timed_out)
        out->exit_status = 124;
    else
        out->exit_status = WIFSIGNALED(j->status) ? 128 + WTERMSIG(j->status) : WEXITSTATUS(j->status);
    if (out->n_samples > 0)
        out->sample_interval_s = out->seconds / (double)out->n_samples;
    out->memory_failed = out->n_samples == 0 && memory_self(&own, &ignored) != 0;
    if (j->options->own_group || out->timed_out)
        clean_up(j);
}

/* From the start of the command to its end. */
static int run(struct job *j, char *const argv[], struct err *err)
{
    struct job_record *out = j->record;
    struct machine_load before, after;
    struct noise noise_before, noise_after;
    struct rusage children, own, own_after;

    machine_load_read(&before);
    out->load_before = before.load1;
    noise_read(&noise_before);
    getrusage(RUSAGE_CHILDREN, &children);
    getrusage(RUSAGE_SELF, &own);
    start_energy(j);
    const int status = start(j, argv, err);
    if (status == 0) {
        if (j->options->steps)
            j->options->steps->start_s = j->start_s;
        follow(j);
        if (j->energy) {
            energy_read(j->energy, &out->energy);
            energy_read_gpus(j->energy, &out->gpus);
        }
        machine_load_read(&after);
        out->steal_seconds = after.steal_s - before.steal_s;
        noise_read(&noise_after);
        out->noise = noise_between(&noise_before, &noise_after);
        account(j, &children);
        getrusage(RUSAGE_SELF, &own_after);
        out->meter_cpu_seconds = cpu_of(&own_after) - cpu_of(&own);
        finish(j);
    }
    if (j->options->steps)
        steps_unwatch(j->options->steps);
    stop_energy(j);
    return status;
}

int job_measure(char *const argv[], const struct job_options *o, struct job_record *out, struct err *err)
{
    static const struct job_options none;
    struct job j = {
        .options = o ? o : &none, .record = out, .status = 125 << 8, .traced_s = NAN, .traced_j = NAN, .high_bytes = -1
    };

    *out = (struct job_record){ .exit_status = 125,
                                .peak_bytes = -1,
                                .peak_pss_bytes = -1,
                                .gpus = { .peak_bytes = -1 },
                                .noise = { NAN, NAN, -1, -1 },
                                .energy = { .state = METER_UNAVAILABLE, .joules = NAN } };
    make_run_id(j.run_id, sizeof j.run_id);
    int status = build_env(&j, err);
    if (status == 0) {
        hold_signals(&j);
        status = run(&j, argv, err);
        release_signals(&j);
    }
    memory_members_free(&j.members);
    mem_free(j.env);
    mem_free(j.marker);
    return status;
}
