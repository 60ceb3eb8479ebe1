/* What commands tell of themselves, true and false. */
#include "measure/steps.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "machine_fixture.h"
#include "measure/job.h"

static struct steps open_steps(void)
{
    struct steps s;
    struct err err = { 0 };

    if (steps_open(&s, false, &err) != 0)
        fail_msg("%s", err.what);
    return s;
}

static void tell(struct steps *s, const char *text)
{
    FILE *f = fopen(s->path, "a");

    if (!f || fputs(text, f) == EOF || fclose(f) != 0)
        fail_msg("could not write");
}

static bool accepts(const char *line, struct steps_one *one, int64_t *rank)
{
    char why[160] = "";
    const bool good = steps_parse(line, (int64_t)strlen(line), one, rank, why, sizeof why);

    if (good == (why[0] != '\0'))
        fail_msg("\"%s\": %d and \"%s\"", line, good, why);
    return good;
}

TEST(lines_are_checked)
{
    static const char *const bad[] = { "{}",
                                       "{\"step\": -1}",
                                       "{\"step\": 1.5}",
                                       "{\"step\": \"1\"}",
                                       "{\"step\": 1, \"loss\": \"low\"}",
                                       "{\"step\": 1, \"loss\": NaN}",
                                       "{\"step\": 1, \"step\": 2}",
                                       "{\"step\": 99999999999999999999}",
                                       "{\"step\": 9223372036854775807}",
                                       "{\"step\": 1, \"allocated_bytes\": 9000000000000000000}",
                                       "{\"step\": 1, \"rank\": 1024}",
                                       "[1]",
                                       "1",
                                       "{\"step\": 1",
                                       "\xff" };
    struct steps_one one;
    int64_t rank;

    CHECK(accepts("{\"step\": 3, \"loss\": -0.5, \"tokens\": 7, \"allocated_bytes\": 9, \"rank\": 2, \"x\": [1]}", &one,
                  &rank));
    CHECK_EQ(one.step, 3);
    CHECK_NEAR(one.loss, -0.5, 0);
    CHECK_EQ(one.tokens, 7);
    CHECK_EQ(one.allocated_bytes, 9);
    CHECK_EQ(rank, 2);
    CHECK(accepts("{\"step\": 0, \"loss\": null}", &one, &rank));
    CHECK(isnan(one.loss) && one.tokens == -1 && rank == 0);
    for (int i = 0; i < COUNT_OF(bad); i++)
        if (accepts(bad[i], &one, &rank))
            fail_msg("\"%s\" is accepted", bad[i]);
}

TEST(warm_up_is_left_out)
{
    const struct fixture f = machine_new("");
    struct steps s = open_steps();
    struct steps_window w;
    static const double at[] = { 30, 2, 2, 2 }; /* the first step compiles */
    steps_window(&s, 1, &w);
    CHECK(strstr(w.reason, "no steps"));
    for (int i = 0; i < 4; i++) {
        char text[128];
        pass(at[i]);
        snprintf(text, sizeof text, "{\"step\": %d, \"loss\": %d, \"tokens\": 100, \"allocated_bytes\": %d}\n", i + 1,
                 10 - i, i == 1 ? 500 : 400);
        tell(&s, text);
        steps_poll(&s, NULL, false);
    }
    steps_window(&s, 1, &w);
    CHECK_STR(w.reason, "");
    CHECK_EQ(w.n, 3);
    CHECK_NEAR(w.seconds, 6, 1e-9);
    CHECK_NEAR(w.tokens, 300, 0);
    CHECK_NEAR(w.final_loss, 7, 0);
    CHECK_EQ(w.allocated_bytes, 500);
    CHECK(isnan(w.joules));
    steps_window(&s, 0, &w);
    CHECK_NEAR(w.seconds, 36, 1e-9);
    steps_window(&s, 4, &w);
    CHECK(strstr(w.reason, "4 are warm-up") && isnan(w.seconds));
    steps_close(&s);
    CHECK_EQ(mem_live_bytes(MEM_RECORD), 0);
    machine_free(&f);
}

TEST(joules_follow_the_window)
{
    const struct fixture f = machine_new("");
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "0\n");
    struct energy_meter *m = start_all(NULL);
    struct steps s = open_steps();
    struct steps_window w;
    for (int i = 1; i <= 3; i++) {
        char text[64];
        pass(1);
        snprintf(text, sizeof text, "%d\n", i * i * 10000000); /* 10, 40, 90 J */
        fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", text);
        snprintf(text, sizeof text, "{\"step\": %d}\n", i);
        tell(&s, text);
        steps_poll(&s, m, false);
    }
    steps_window(&s, 1, &w);
    CHECK_NEAR(w.joules, 80, 1e-9);
    CHECK_NEAR(w.seconds, 2, 1e-9);
    energy_stop(m);
    steps_close(&s);
    machine_free(&f);
}

TEST(ranks_add_their_memory_only)
{
    struct steps s = open_steps();
    struct steps_window w;
    tell(&s, "{\"step\": 1, \"allocated_bytes\": 100}\n{\"step\": 1, \"allocated_bytes\": 70, \"rank\": 1}\n"
             "{\"step\": 1, \"allocated_bytes\": 90, \"rank\": 1}\n");
    steps_poll(&s, NULL, true);
    steps_window(&s, 0, &w);
    CHECK_EQ(w.n, 1);
    CHECK_EQ(w.allocated_bytes, 190);
    steps_close(&s);
}

TEST(rubbish_is_counted_and_left_out)
{
    struct steps s = open_steps();
    char *long_line = calloc(1, 3 * STEPS_MAX_LINE);
    memset(long_line, 'x', 2 * STEPS_MAX_LINE);
    tell(&s, "not json\n\n{\"step\": 5}\n{\"step\": 4}\n");
    tell(&s, long_line);
    tell(&s, "\n{\"step\": 6}\n{\"step\": 6, \"loss\": 2}\n{\"step\": 7}"); /* the last has no line's end */
    steps_poll(&s, NULL, true);
    CHECK_EQ(s.n, 3);
    CHECK_EQ(s.items[1].step, 6);
    CHECK_NEAR(s.items[1].loss, 2, 0); /* told again: the last word counts */
    CHECK_EQ(s.items[2].step, 7);
    CHECK_EQ(s.n_rejected, 3);
    CHECK(strstr(s.rejected, "JSON"));
    free(long_line);
    steps_close(&s);
}

TEST(what_does_not_fit_is_said)
{
    struct steps s = open_steps();
    struct steps_window w;
    tell(&s, "{\"step\": 1}\n");
    mem_fail_at(1);
    steps_poll(&s, NULL, true);
    mem_fail_at(0);
    CHECK_EQ(s.n, 0);
    CHECK_EQ(s.n_left_out, 1);
    steps_window(&s, 0, &w);
    CHECK(w.reason[0]);
    steps_close(&s);
}

/* A line is seen when it is written, not when the meter comes round. */
TEST(steps_of_a_job_are_timed)
{
    char *argv[] = { (char *)"sh", (char *)"-c",
                     (char *)"for i in 1 2 3; do sleep 0.2; echo \"{\\\"step\\\": $i}\" >> $TUNEUP_METRICS_FILE; done",
                     NULL };
    struct steps s = open_steps();
    const struct job_options o = { .steps = &s };
    struct steps_window w;
    struct job_record r;
    struct err err = { 0 };
    CHECK_OK(job_measure(argv, &o, &r, &err), &err);
    CHECK_EQ(r.exit_status, 0);
    CHECK_EQ(s.n, 3);
    steps_window(&s, 1, &w);
    CHECK(w.seconds > 0.35 && w.seconds < 1.5);
    CHECK(s.items[0].at_s - s.start_s >= 0.2);
    steps_close(&s);
    CHECK_EQ(access(s.path, F_OK), -1);
}

TEST_MAIN(CASE(lines_are_checked), CASE(warm_up_is_left_out), CASE(joules_follow_the_window),
          CASE(ranks_add_their_memory_only), CASE(rubbish_is_counted_and_left_out), CASE(what_does_not_fit_is_said),
          CASE(steps_of_a_job_are_timed))
