/* Agreement of ranks, over threads in the place of ranks; and every collective of MPI, when mpirun starts this program again as
 * two ranks. */
#include "comm/comm.h"

#include <math.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "equivalence/local_ranks.h"
#include "test.h"

#define RANKS 3

struct member {
    struct comm comm;
    struct err err;
    int result;
    uint64_t value;
    void (*act)(struct member *m);
};

static void *start(void *member)
{
    struct member *m = member;

    m->act(m);
    return NULL;
}

/* Every rank does the same, each with its own value. */
static void together(struct member m[RANKS], void (*act)(struct member *), const uint64_t values[RANKS])
{
    struct local_world w;
    pthread_t threads[RANKS];

    local_world_init(&w, RANKS);
    for (int r = 0; r < RANKS; r++) {
        m[r] = (struct member){ .act = act, .value = values[r] };
        local_comm(&m[r].comm, &w, r);
        pthread_create(&threads[r], NULL, start, &m[r]);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    local_world_free(&w);
}

/* value: an error's code, 0 = this rank is fine. */
static void agree(struct member *m)
{
    int result = 0;

    if (m->value) {
        result = err_set(&m->err, (enum err_code)m->value, "rank %d cannot", m->comm.rank);
        err_where(&m->err, "its place");
        err_hint(&m->err, "Its mend.");
    }
    m->result = comm_agree(&m->comm, result, &m->err);
}

static void same(struct member *m)
{
    m->result = comm_same(&m->comm, m->value, "the data", &m->err);
}

TEST(all_are_fine_when_each_is)
{
    struct member m[RANKS];

    together(m, agree, (uint64_t[RANKS]){ 0 });
    for (int r = 0; r < RANKS; r++) {
        CHECK_EQ(m[r].result, 0);
        CHECK(!m[r].comm.agreed);
    }
}

TEST(all_fail_with_the_first_failures_words)
{
    struct member m[RANKS];

    together(m, agree, (uint64_t[RANKS]){ 0, ERR_INFEASIBLE, ERR_INPUT });
    for (int r = 0; r < RANKS; r++) {
        CHECK_EQ(m[r].result, -1);
        CHECK_EQ(m[r].err.code, ERR_INFEASIBLE);
        CHECK_STR(m[r].err.what, "rank 1 cannot");
        CHECK_STR(m[r].err.where, "its place, rank 1 of 3");
        CHECK_STR(m[r].err.hint, "Its mend.");
        CHECK(m[r].comm.agreed);
    }
}

TEST(a_difference_names_its_rank)
{
    struct member m[RANKS];

    together(m, same, (uint64_t[RANKS]){ 7, 7, 7 });
    for (int r = 0; r < RANKS; r++)
        CHECK_EQ(m[r].result, 0);
    together(m, same, (uint64_t[RANKS]){ 7, 7, 8 });
    for (int r = 0; r < RANKS; r++) {
        CHECK_EQ(m[r].result, -1);
        CHECK_STR(m[r].err.what, "the data differs from that of rank 0");
        CHECK_STR(m[r].err.where, "rank 2 of 3");
    }
}

TEST(one_rank_agrees_with_itself)
{
    struct comm c;
    struct err err = { 0 };
    double x[2] = { 1, 2 };

    comm_alone(&c);
    CHECK_OK(c.all_reduce(&c, x, 2, F64, &err), &err);
    CHECK_NEAR(x[1], 2, 0);
    CHECK_OK(comm_agree(&c, 0, &err), &err);
    CHECK_OK(comm_same(&c, 5, "the data", &err), &err);
    CHECK_EQ(comm_agree(&c, err_set(&err, ERR_RUN, "no"), &err), -1);
    CHECK(c.agreed);
    CHECK_STR(err.what, "no");
}

/* ---- As a rank of mpirun ---- */

#define DEMAND(x) ((x) ? (void)0 : give_up(#x, __LINE__))

static void give_up(const char *what, int line)
{
    fprintf(stderr, "%s does not hold at line %d\n", what, line);
    exit(9);
}

static void check_sums(struct comm *c, struct err *err)
{
    const int r = c->rank, n_ranks = c->ranks;
    float f[3] = { 1.5f, (float)r, -2 };
    double d[2] = { 1e-300 * (r + 1), r };
    uint16_t b[5];

    for (int i = 0; i < 5; i++)
        b[i] = bf16_from_f32((float)(i + r));
    DEMAND(c->all_reduce(c, f, 3, F32, err) == 0 && f[0] == 1.5f * (float)n_ranks && f[1] == 1 && f[2] == -4);
    DEMAND(c->all_reduce(c, d, 2, F64, err) == 0 && d[0] == 3e-300 && d[1] == 1);
    DEMAND(c->all_reduce(c, b, 5, BF16, err) == 0);
    for (int i = 0; i < 5; i++)
        DEMAND(bf16_to_f32(b[i]) == (float)(2 * i + 1));
    for (int i = 0; i < 5; i++)
        b[i] = f16_from_f32(i == 4 ? 65504.0f : (float)(i + r) + 0.125f); /* which bf16 has no bits for */
    DEMAND(c->all_reduce(c, b, 5, F16, err) == 0);
    for (int i = 0; i < 5; i++)
        DEMAND(f16_to_f32(b[i]) == (i == 4 ? INFINITY : (float)(2 * i + 1) + 0.25f));
}

static void check_parts(struct comm *c, struct err *err)
{
    const int r = c->rank;
    float x[6] = { 0, 1, 2, 3, 4, 5 }, y[6] = { 0 };
    uint16_t b[4];

    DEMAND(c->reduce_scatter(c, x, 3, F32, err) == 0);
    for (int i = 0; i < 3; i++)
        DEMAND(x[3 * r + i] == (float)(2 * (3 * r + i)));
    for (int i = 0; i < 3; i++)
        y[3 * r + i] = (float)(10 * r + i);
    DEMAND(c->all_gather(c, y, 3, F32, err) == 0 && y[0] == 0 && y[2] == 2 && y[3] == 10 && y[5] == 12);
    for (int i = 0; i < 4; i++)
        b[i] = bf16_from_f32((float)i);
    DEMAND(c->reduce_scatter(c, b, 2, BF16, err) == 0);
    DEMAND(bf16_to_f32(b[2 * r]) == (float)(4 * r) && bf16_to_f32(b[2 * r + 1]) == (float)(4 * r + 2));
}

/* Two at once, ended in the order they began in. */
static void check_begun(struct comm *c, struct err *err)
{
    const int r = c->rank;
    float x[4] = { 0, 1, 2, 3 }, y[4] = { 0 };

    y[2 * r] = (float)(10 + r);
    DEMAND(comm_begin(c, COMM_REDUCE_SCATTER, x, 2, F32, err) == 0);
    DEMAND(comm_begin(c, COMM_ALL_GATHER, y, 2, F32, err) == 0);
    for (int i = 0; i < 100; i++)
        c->progress(c);
    DEMAND(c->end(c, x, err) == 0 && x[2 * r] == (float)(4 * r) && x[2 * r + 1] == (float)(4 * r + 2));
    DEMAND(c->end(c, y, err) == 0 && y[0] == 10 && y[1] == 0 && y[2] == 11);
    DEMAND(c->sent[COMM_ALL_GATHER].calls > 0 &&
           c->sent[COMM_ALL_GATHER].bytes == 8 * (double)c->sent[COMM_ALL_GATHER].calls);
}

static int as_a_rank(void)
{
    struct err err = { 0 };
    struct comm c;
    int all[2] = { -1, -1 }, own;

    DEMAND(comm_open(&c, &err) == 0);
    c.timeout_s = 60;
    DEMAND(strcmp(c.name, "mpi") == 0 && c.ranks == 2 && c.local_ranks == 2);
    check_sums(&c, &err);
    check_parts(&c, &err);
    const int64_t piece = c.piece;
    c.piece = 2; /* as if vectors were longer than MPI can count */
    check_sums(&c, &err);
    check_parts(&c, &err);
    c.piece = 1;
    check_begun(&c, &err);
    c.piece = piece;
    check_begun(&c, &err);
    own = 40 + c.rank;
    DEMAND(c.gather_bytes(&c, &own, all, sizeof own, &err) == 0 && (c.rank > 0 || (all[0] == 40 && all[1] == 41)));
    DEMAND(c.broadcast(&c, &own, sizeof own, &err) == 0 && own == 40 && c.barrier(&c, &err) == 0);
    if (c.rank == 1)
        DEMAND(c.send(&c, all, sizeof all, 0, &err) == 0);
    else
        DEMAND(c.receive(&c, all, sizeof all, 1, &err) == 0 && all[0] == -1);
    DEMAND(comm_same(&c, 5, "the data", &err) == 0 && comm_same(&c, (uint64_t)c.rank, "the data", &err) == -1);
    DEMAND(strcmp(err.where, "rank 1 of 2") == 0 && c.agreed);
    c.close(&c);
    c.close(&c);
    return 0;
}

/* Rank 1 is held up elsewhere; rank 0 must not wait for ever, and say for whom it did. */
static int as_one_of_whom_one_is_late(void)
{
    struct err err = { 0 };
    struct comm c;
    double x = 1;

    DEMAND(comm_open(&c, &err) == 0);
    c.timeout_s = 1;
    DEMAND(c.all_reduce(&c, &x, 1, F64, &err) == 0 && x == 2);
    if (c.rank == 1)
        sleep(60);
    DEMAND(c.all_reduce(&c, &x, 1, F64, &err) == -1 && err.code == ERR_RUN);
    DEMAND(strncmp(err.what, "an all-reduce has waited 1 s for rank 1 on ", 43) == 0);
    c.abort(&c, 5);
    return 1;
}

static void as_ranks(void **test_state, const char *part, int want)
{
    char self[4096] = "";
    const char *const words[] = { "mpirun", "-q", "-n", "2", "--bind-to", "none", self, NULL };
    int status = 0;

    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    const pid_t pid = fork();
    if (pid == 0) {
        setenv("TUNEUP_TEST_RANK", part, 1);
        setenv("LSAN_OPTIONS", "detect_leaks=0", 1); /* what MPI's unloaded plugins leave has no name to suppress */
        execvp(words[0], (char *const *)(uintptr_t)words);
        _exit(127);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), want);
}

TEST(mpi_sums_scatters_and_gathers)
{
    if (system("command -v mpirun >/dev/null") != 0)
        skip();
    as_ranks(test_state, "all", 0);
}

TEST(a_rank_that_does_not_come_is_named)
{
    if (system("command -v mpirun >/dev/null") != 0)
        skip();
    as_ranks(test_state, "late", 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(all_are_fine_when_each_is),     CASE(all_fail_with_the_first_failures_words),
        CASE(a_difference_names_its_rank),   CASE(one_rank_agrees_with_itself),
        CASE(mpi_sums_scatters_and_gathers), CASE(a_rank_that_does_not_come_is_named)
    };
    const char *part = getenv("TUNEUP_TEST_RANK");

    if (part)
        return strcmp(part, "late") == 0 ? as_one_of_whom_one_is_late() : as_a_rank();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
