/* Three parts: one process (smaps_rollup, statm), a tree of processes, and the pace at which to look. Processes come
 * and go while they are read: one that has vanished is not an error, one that may not be read is counted. */
#include "measure/memory.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/clock.h"
#include "measure/sysfile.h"

#define CPU_SHARE 0.005 /* of one CPU, for the memory's meter: with the others it stays within 1 % */
#define CREDIT_S 0.015 /* CPU that may be spent ahead, so that a short command is seen at all */
#define TICK_MIN_S 0.02
#define TICK_MAX_S 0.5
#define SETTLED_S 2
#define ENVIRONMENT_MAX (128 * 1024) /* bytes of an environment that are searched for the marker */

/* ---- one process ---- */

bool memory_parse_rollup(const char *text, struct memory_reading *out)
{
    int64_t rss, pss, anon, shmem, swap;

    if (!sysfile_find_int(text, "Rss:", &rss) || !sysfile_find_int(text, "Pss:", &pss) ||
        !sysfile_find_int(text, "Pss_Anon:", &anon) || !sysfile_find_int(text, "Pss_Shmem:", &shmem) ||
        !sysfile_find_int(text, "SwapPss:", &swap))
        return false;
    const int64_t limit = INT64_MAX / 1024 / 4; /* kB; no sum below can overflow */
    if (rss > limit || pss > limit || anon > limit || shmem > limit || swap > limit)
        return false;
    *out = (struct memory_reading){ .pss_bytes = pss * 1024,
                                    .anon_bytes = (anon + shmem + swap) * 1024,
                                    .rss_bytes = rss * 1024 };
    return true;
}

/* 1 = read, 0 = has ended or has no memory of its own (kernel threads, zombies), -errno. */
static int read_process(pid_t pid, struct memory_reading *out)
{
    char path[FILE_PATH_MAX], text[4096];

    int n = sysfile_path(path, SYSFILE_PROC, "%d/smaps_rollup", (int)pid);
    if (n == 0)
        n = (int)sysfile_read(path, text, sizeof text);
    if (n == -ENOENT || n == -ESRCH || n == 0)
        return 0;
    if (n < 0)
        return n;
    return memory_parse_rollup(text, out) ? 1 : 0;
}

static int64_t statm_rss(pid_t pid)
{
    char path[FILE_PATH_MAX], text[256];
    long long size, resident;

    if (sysfile_path(path, SYSFILE_PROC, "%d/statm", (int)pid) != 0 || sysfile_read(path, text, sizeof text) <= 0 ||
        sscanf(text, "%lld %lld", &size, &resident) != 2 || resident < 0 || resident > INT64_MAX / (1 << 20))
        return 0;
    return resident * sysconf(_SC_PAGESIZE);
}

int memory_self(struct memory_reading *out, struct err *err)
{
    char path[FILE_PATH_MAX];
    const int got = read_process(getpid(), out);

    if (got == 1)
        return 0;
    *out = (struct memory_reading){ 0 };
    sysfile_path(path, SYSFILE_PROC, "%d/smaps_rollup", (int)getpid());
    err_set(err, ERR_UNAVAILABLE, "cannot read this process's memory: %s",
            got < 0 ? strerror(-got) : "smaps_rollup is missing or incomplete");
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "Linux 5.0 or newer with a mounted /proc is needed.");
}

/* ---- a tree of processes ---- */

struct process {
    pid_t pid, parent;
    uint64_t start; /* clock ticks since boot */
    bool inside, foreign, marked;
};

struct process_list {
    struct process *items;
    int n, capacity;
};

/* "PID (NAME) STATE PPID ..." where NAME may hold spaces and parentheses: fields count from the last ')'. */
static bool parse_stat(const char *text, struct process *out)
{
    const char *c = strrchr(text, ')');
    int parent;
    unsigned long long start;

    if (!c || sscanf(c + 1, " %*c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &parent,
                     &start) != 2)
        return false;
    out->parent = (pid_t)parent;
    out->start = start;
    return true;
}

static int by_pid(const void *a, const void *b)
{
    const pid_t x = ((const struct process *)a)->pid, y = ((const struct process *)b)->pid;

    return (x > y) - (x < y);
}

static int list_processes(struct process_list *list, struct err *err)
{
    char path[FILE_PATH_MAX], text[1024];
    DIR *d;

    if (sysfile_path(path, SYSFILE_PROC, ".") != 0 || !(d = opendir(path))) {
        err_set(err, ERR_UNAVAILABLE, "cannot list processes: %s", strerror(errno));
        err_where(err, "folder \"%s\"", path);
        return err_hint(err, "Mount /proc.");
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        struct process p = { .pid = (pid_t)atoi(e->d_name) };

        if (!isdigit((unsigned char)e->d_name[0]) || sysfile_path(path, SYSFILE_PROC, "%d/stat", (int)p.pid) != 0 ||
            sysfile_read(path, text, sizeof text) <= 0 || !parse_stat(text, &p))
            continue;
        if (list->n == list->capacity) {
            const int capacity = list->capacity ? 2 * list->capacity : 256;
            void *items = mem_resize(list->items, capacity, sizeof *list->items, MEM_RECORD, err);
            if (!items) {
                closedir(d);
                return -1;
            }
            list->items = items;
            list->capacity = capacity;
        }
        list->items[list->n++] = p;
    }
    closedir(d);
    if (list->n > 0)
        qsort(list->items, (size_t)list->n, sizeof *list->items, by_pid);
    return 0;
}

static struct process *find_process(const struct process_list *list, pid_t pid)
{
    const struct process key = { .pid = pid };

    return list->n ? bsearch(&key, list->items, (size_t)list->n, sizeof key, by_pid) : NULL;
}

/* A pass takes in the children of those inside; a parent may have a higher pid than its child, hence passes. */
static void spread(const struct process_list *list, pid_t except)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (int i = 0; i < list->n; i++) {
            struct process *p = &list->items[i];
            const struct process *parent = p->inside || p->pid == except ? NULL : find_process(list, p->parent);

            if (parent && parent->inside)
                p->inside = changed = true;
        }
    }
}

static bool has_marker(pid_t pid, const char *marker, char *buffer)
{
    const size_t n = strlen(marker) + 1; /* with its zero, so that an id is no prefix of another */
    char path[FILE_PATH_MAX];

    if (sysfile_path(path, SYSFILE_PROC, "%d/environ", (int)pid) != 0)
        return false;
    const ssize_t got = sysfile_read(path, buffer, ENVIRONMENT_MAX);
    for (const char *c = buffer, *end = buffer + (got > 0 ? got : 0); end - c >= (ptrdiff_t)n - 1;) {
        if (memcmp(c, marker, n) == 0) /* the buffer has a zero after its end */
            return true;
        const char *next = memchr(c, '\0', (size_t)(end - c));
        if (!next)
            break;
        c = next + 1;
    }
    return false;
}

static int by_foreign_pid(const void *a, const void *b)
{
    const pid_t x = ((const struct memory_foreign *)a)->pid, y = ((const struct memory_foreign *)b)->pid;

    return (x > y) - (x < y);
}

static bool is_foreign(const struct memory_members *m, const struct process *p)
{
    const struct memory_foreign key = { .pid = p->pid };
    const struct memory_foreign *found =
        m->n_foreign ? bsearch(&key, m->foreign, (size_t)m->n_foreign, sizeof key, by_foreign_pid) : NULL;

    return found && found->start == p->start;
}

/* Remembered are those that had the time to execute what they were started for. */
static void keep_foreign(struct memory_members *m, const struct process_list *list)
{
    struct timespec t;
    struct err ignored;

    clock_gettime(CLOCK_BOOTTIME, &t);
    const uint64_t settled =
        (uint64_t)(t.tv_sec > SETTLED_S ? t.tv_sec - SETTLED_S : 0) * (uint64_t)sysconf(_SC_CLK_TCK);
    m->n_foreign = 0;
    if (list->n > m->foreign_capacity) {
        void *grown = mem_resize(m->foreign, list->n, sizeof *m->foreign, MEM_RECORD, &ignored);
        if (!grown)
            return; /* then they are looked at again */
        m->foreign = grown;
        m->foreign_capacity = list->n;
    }
    for (int i = 0; i < list->n; i++)
        if (list->items[i].foreign && list->items[i].start < settled)
            m->foreign[m->n_foreign++] =
                (struct memory_foreign){ .pid = list->items[i].pid, .start = list->items[i].start };
}

/* Reading environments is dear: none that is older than root can be of the run, and each is read once. */
static int mark_by_environment(struct memory_members *m, const struct process_list *list, const struct process *root,
                               const char *run_id, struct err *err)
{
    char *marker = mem_printf(MEM_RECORD, err, "TUNEUP_RUN=%s", run_id);
    char *buffer = marker ? mem_array(ENVIRONMENT_MAX, 1, 1, MEM_RECORD, err) : NULL;

    for (int i = 0; buffer && i < list->n; i++) {
        struct process *p = &list->items[i];
        if (p->inside || (root && p->start < root->start))
            continue;
        p->inside = p->marked = !is_foreign(m, p) && has_marker(p->pid, marker, buffer);
        p->foreign = !p->inside;
    }
    const int status = buffer ? 0 : -1;
    if (buffer)
        keep_foreign(m, list);
    mem_free(marker);
    mem_free(buffer);
    return status;
}

static bool room_for(pid_t **pids, int *capacity, int n, struct err *err)
{
    if (n <= *capacity)
        return true;
    void *grown = mem_resize(*pids, 2 * n, sizeof **pids, MEM_RECORD, err);
    if (!grown)
        return false;
    *pids = grown;
    *capacity = 2 * n;
    return true;
}

static int collect(struct memory_members *m, const struct process_list *list, struct err *err)
{
    m->n = m->n_marked = 0;
    if (!room_for(&m->pids, &m->capacity, list->n, err) || !room_for(&m->marked, &m->marked_capacity, list->n, err))
        return -1;
    for (int i = 0; i < list->n; i++) {
        if (list->items[i].inside && list->items[i].pid != getpid())
            m->pids[m->n++] = list->items[i].pid;
        if (list->items[i].marked && list->items[i].pid != getpid())
            m->marked[m->n_marked++] = list->items[i].pid;
    }
    return 0;
}

/* ---- the same by lists of children ---- */

static bool is_member(const struct memory_members *m, pid_t pid)
{
    for (int i = 0; i < m->n; i++)
        if (m->pids[i] == pid)
            return true;
    return false;
}

static void add_member(struct memory_members *m, pid_t pid)
{
    struct err ignored;

    if (pid != m->except && !is_member(m, pid) && room_for(&m->pids, &m->capacity, m->n + 1, &ignored))
        m->pids[m->n++] = pid;
}

/* "12 34 56 " of one thread: -1 when there is no such file. */
static int add_children_of(struct memory_members *m, pid_t pid, const char *thread)
{
    char path[FILE_PATH_MAX], text[8192], *c = text;

    if (sysfile_path(path, SYSFILE_PROC, "%d/task/%s/children", (int)pid, thread) != 0 ||
        sysfile_read(path, text, sizeof text) < 0)
        return -1;
    for (long child; (child = strtol(c, &c, 10)) > 0;)
        add_member(m, (pid_t)child);
    return 0;
}

/* Every thread has its own children. */
static void add_children(struct memory_members *m, pid_t pid)
{
    char path[FILE_PATH_MAX];
    DIR *d = sysfile_path(path, SYSFILE_PROC, "%d/task", (int)pid) == 0 ? opendir(path) : NULL;

    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (isdigit((unsigned char)e->d_name[0]))
            add_children_of(m, pid, e->d_name);
    if (d)
        closedir(d);
}

int memory_members_follow(struct memory_members *m, pid_t root)
{
    char self[16];
    const int before = m->n;

    snprintf(self, sizeof self, "%d", (int)root);
    m->n = 0;
    if (add_children_of(m, root, self) != 0) {
        m->n = before; /* the list itself is as it was */
        return -1;
    }
    for (int i = 0; i < m->n_marked; i++)
        add_member(m, m->marked[i]);
    for (int i = 0; i < m->n; i++) /* grows meanwhile */
        add_children(m, m->pids[i]);
    return 0;
}

/* ---- all of /proc ---- */

int memory_members_scan(struct memory_members *m, pid_t root, const char *run_id, struct err *err)
{
    struct process_list list = { 0 };
    int status = list_processes(&list, err);

    if (status == 0) {
        struct process *r = find_process(&list, root);
        if (r)
            r->inside = true;
        spread(&list, m->except);
        if (run_id) {
            status = mark_by_environment(m, &list, r, run_id, err);
            spread(&list, m->except);
        }
    }
    if (status == 0)
        status = collect(m, &list, err);
    mem_free(list.items);
    return status;
}

int64_t memory_members_rss(const struct memory_members *m)
{
    int64_t sum = 0;

    for (int i = 0; i < m->n; i++)
        sum += statm_rss(m->pids[i]);
    return sum;
}

int memory_members_read(const struct memory_members *m, struct memory_reading *sum)
{
    int n = 0;

    *sum = (struct memory_reading){ 0 };
    for (int i = 0; i < m->n; i++) {
        struct memory_reading one;
        const int got = read_process(m->pids[i], &one);

        if (got < 0)
            sum->n_unreadable++;
        if (got != 1)
            continue;
        sum->pss_bytes += one.pss_bytes;
        sum->anon_bytes += one.anon_bytes;
        sum->rss_bytes += one.rss_bytes;
        n++;
    }
    return n;
}

void memory_members_free(struct memory_members *m)
{
    mem_free(m->pids);
    mem_free(m->foreign);
    mem_free(m->marked);
    *m = (struct memory_members){ 0 };
}

int memory_tree(pid_t root, const char *run_id, struct memory_reading *sum, int *n_processes, struct err *err)
{
    struct memory_members m = { 0 };
    const int status = memory_members_scan(&m, root, run_id, err);

    *sum = (struct memory_reading){ 0 };
    *n_processes = status == 0 ? memory_members_read(&m, sum) : 0;
    memory_members_free(&m);
    return status;
}

/* ---- the pace ---- */

static bool has_budget(const struct memory_pace *p, double now_s)
{
    return p->spent_s < fmax(CREDIT_S, CPU_SHARE * (now_s - p->started_s));
}

/* A new high is read at once while there is budget. Without, it waits until the growth pauses, which is when the peak
 * is: reading at each percent of a long growth would cost more than the whole budget and be overtaken each time. */
bool memory_pace_due(struct memory_pace *p, double now_s, int64_t rss)
{
    if (!p->running) {
        *p = (struct memory_pace){ .started_s = now_s, .running = true, .last_rss = rss, .high_rss = rss };
        return true;
    }
    const bool high = (double)rss > 1.01 * (double)p->high_rss;
    const bool pause = (double)rss <= 1.001 * (double)p->last_rss;

    p->last_rss = rss;
    if (!(high && (pause || has_budget(p, now_s))) && now_s < p->next_s)
        return false;
    if (rss > p->high_rss)
        p->high_rss = rss;
    return true;
}

void memory_pace_spent(struct memory_pace *p, double now_s, double cost_s, bool full)
{
    p->spent_s += cost_s;
    if (!full)
        return;
    const double gap_s = has_budget(p, now_s) ? 0 : cost_s / (CPU_SHARE / 2);
    p->next_s = now_s + (gap_s > TICK_MIN_S ? gap_s : TICK_MIN_S);
}

double memory_pace_wait(double tick_cost_s)
{
    const double wait_s = tick_cost_s / (CPU_SHARE / 2);

    return wait_s < TICK_MIN_S ? TICK_MIN_S : wait_s > TICK_MAX_S ? TICK_MAX_S : wait_s;
}

/* ---- this process ---- */

struct memory_sampler {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct memory_pace pace;
    double tick_cost_s;
    int64_t peak_bytes;
    bool stopping;
};

/* With the lock held. */
static void tick(struct memory_sampler *s, bool insist)
{
    const double before_s = clock_thread_cpu_seconds(), now_s = clock_seconds();
    const bool due = memory_pace_due(&s->pace, now_s, statm_rss(getpid()));
    struct memory_reading r;

    s->tick_cost_s = clock_thread_cpu_seconds() - before_s;
    if ((due || insist) && read_process(getpid(), &r) == 1 && r.anon_bytes > s->peak_bytes)
        s->peak_bytes = r.anon_bytes;
    memory_pace_spent(&s->pace, now_s, clock_thread_cpu_seconds() - before_s, due || insist);
}

static struct timespec after(double wait_s)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    const int64_t ns = t.tv_nsec + (int64_t)(wait_s * 1e9);
    return (struct timespec){ .tv_sec = t.tv_sec + (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };
}

static void *sampler_main(void *data)
{
    struct memory_sampler *s = data;

    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        const struct timespec until = after(memory_pace_wait(s->tick_cost_s));
        pthread_cond_timedwait(&s->wake, &s->lock, &until);
        if (!s->stopping)
            tick(s, false);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

int memory_sampler_start(struct memory_sampler **out, struct err *err)
{
    struct memory_reading first;
    pthread_condattr_t attr;
    sigset_t all, old;

    *out = NULL;
    if (memory_self(&first, err) != 0)
        return -1;
    struct memory_sampler *s = mem_array(1, 1, sizeof *s, MEM_RECORD, err);
    if (!s)
        return -1;
    s->peak_bytes = first.anon_bytes;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all); /* signals belong to the threads of the run */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    errno = pthread_create(&s->thread, NULL, sampler_main, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (errno != 0) {
        err_errno(err, "could not start the memory meter's thread");
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->wake);
        mem_free(s);
        return -1;
    }
    *out = s;
    return 0;
}

void memory_sampler_note(struct memory_sampler *s)
{
    pthread_mutex_lock(&s->lock);
    tick(s, false);
    pthread_mutex_unlock(&s->lock);
}

int64_t memory_sampler_peak(struct memory_sampler *s)
{
    pthread_mutex_lock(&s->lock);
    tick(s, true);
    const int64_t peak_bytes = s->peak_bytes;
    pthread_mutex_unlock(&s->lock);
    return peak_bytes;
}

void memory_sampler_stop(struct memory_sampler *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    mem_free(s);
}
