#include "test.h"

#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/source.h"
#include "data/task.h"

#define ASK(question) "\n\nHuman: " question "\n\nAssistant:"

static const struct task_options all;

static struct source made_of(int64_t n, uint64_t seed, bool eval, const struct task_options *options)
{
    char path[] = "/tmp/tuneup-task-XXXXXX";
    struct source s;
    struct err err = { 0 };
    const int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    if (task_write(path, n, seed, eval, options, &err) != 0 || source_load(&s, path, false, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    unlink(path);
    return s;
}

static struct source made(int64_t n, uint64_t seed, bool eval)
{
    return made_of(n, seed, eval, &all);
}

TEST(the_judge_agrees_with_every_record)
{
    struct source s = made(1500, 1, false);
    int64_t longer = 0;

    CHECK_EQ(s.n_records, 1500);
    for (int64_t i = 0; i < s.n_records; i++) {
        const struct record_text *r = &s.records[i];
        CHECK(task_known(r->prompt));
        CHECK(task_right(r->prompt, r->chosen));
        CHECK(!task_right(r->prompt, r->rejected));
        CHECK(r->chosen[0] == ' ' && r->rejected[0] == ' ');
        CHECK(strncmp(r->prompt, "\n\nHuman: ", 9) == 0);
        CHECK_STR(r->prompt + r->prompt_n - 12, "\n\nAssistant:");
        longer += r->chosen_n > r->rejected_n;
    }
    CHECK_NEAR((double)longer / 1500, 0.56, 0.06);
    source_free(&s);
}

TEST(seed_and_number_fix_a_record)
{
    struct source a = made(50, 7, false), b = made(80, 7, false), c = made(50, 8, false);
    int64_t same = 0;

    for (int64_t i = 0; i < 50; i++) {
        CHECK_STR(a.records[i].prompt, b.records[i].prompt);
        CHECK_STR(a.records[i].chosen, b.records[i].chosen);
        CHECK_STR(a.records[i].rejected, b.records[i].rejected);
        same += strcmp(a.records[i].prompt, c.records[i].prompt) == 0;
    }
    CHECK(same < 5);
    source_free(&a);
    source_free(&b);
    source_free(&c);
}

static int by_prompt(const void *a, const void *b)
{
    return strcmp(((const struct record_text *)a)->prompt, ((const struct record_text *)b)->prompt);
}

TEST(train_and_eval_share_no_prompt)
{
    struct source train = made(1500, 1, false), eval = made(400, 1, true);

    qsort(train.records, (size_t)train.n_records, sizeof *train.records, by_prompt);
    for (int64_t i = 0; i < eval.n_records; i++)
        CHECK(!bsearch(&eval.records[i], train.records, (size_t)train.n_records, sizeof *train.records, by_prompt));
    source_free(&train);
    source_free(&eval);
}

static bool right(const char *prompt, const char *answer)
{
    return task_right(prompt, answer);
}

TEST(numbers_are_judged_by_the_last_one)
{
    const char *q = ASK("Hi! Anna has 3 boxes with 500 beads in each box and gives 20 beads to Ben. "
                        "How many beads does Anna have left? Thanks!");

    CHECK_STR(task_known(q), "boxes");
    CHECK(right(q, " 1480"));
    CHECK(right(q, " 3 * 500 = 1500, minus 20 is 1,480 beads."));
    CHECK(right(q, " The answer is **1480**.\n\nHuman: And 3?"));
    CHECK(!right(q, " 1480 is not it, 1500 is."));
    CHECK(!right(q, " -1480"));
    CHECK(!right(q, " 0.1480"));
    CHECK(!right(q, " 11480"));
    CHECK(!right(q, " none"));
    CHECK(!right(q, ""));
    CHECK(!right(q, " 99999999999999999999999999999999"));
    CHECK(!right(q, "\n\nHuman: 1480"));
}

TEST(words_are_judged_by_the_end)
{
    const char *q = ASK("Sort these words in alphabetical order: pear, apple, fig."),
               *day = ASK("Today is Friday. What "
                          "day of the week will it be in 3 days?");

    CHECK(right(q, " apple, fig, pear"));
    CHECK(right(q, " Sure! Apple, fig, pear."));
    CHECK(!right(q, " banana, apple, fig, pear"));
    CHECK(!right(q, " pineapple, fig, pear"));
    CHECK(!right(q, " fig, pear"));
    CHECK(!right(q, " apple, fig, pear, and that is it"));
    CHECK(right(day, " That is a \"Monday\"!"));
    CHECK(!right(day, " Tuesday"));
    CHECK(right(ASK("A film starts at 9:05 and lasts 56 minutes. At what time does it end?"), " At 10:01."));
    CHECK(!right(ASK("A film starts at 9:05 and lasts 56 minutes. At what time does it end?"), " At 110:01."));
    CHECK(right(ASK("Write the word \"stone\" backwards."), " enots"));
}

TEST(only_the_last_question_counts)
{
    const char *q = ASK("What is 1 plus 2 minus 3?") " 0" ASK("What is 10 plus 20 minus 5?");

    CHECK(right(q, " 25"));
    CHECK(!right(q, " 0"));
}

TEST(what_is_no_task_is_not_right)
{
    const char *const others[] = {
        "",
        "\n\nHuman:",
        "What is 1 plus",
        ASK("Why is the sky blue?"),
        ASK("What is 99999999999999999999 plus 1 minus 1?"),
        ASK("Sort these words in alphabetical order: ."),
        ASK("Sort these words in alphabetical order: b, a."),
        ASK("What is the sum of these numbers: pear, 3?"),
        ASK("Today is Yesterday. What day of the week will it be in 3 days?"),
        ASK("2 children and 1 adults go on a trip. Each van takes 0 people, and every van is "
            "full. How many vans are there?")
    };

    for (int i = 0; i < COUNT_OF(others); i++)
        CHECK(!right(others[i], " 1"));
    CHECK(!task_known(ASK("Why is the sky blue?")));
}

TEST(kinds_are_chosen_and_plain_is_short)
{
    const struct task_options some = { .kinds = "fastest,longest word", .plain = true };
    const struct task_options wrong = { .kinds = "fastest,word" };
    struct source s = made_of(300, 3, false, &some);
    int64_t fastest = 0;
    struct err err;

    for (int64_t i = 0; i < s.n_records; i++) {
        const struct record_text *r = &s.records[i];
        const char *kind = task_known(r->prompt);
        CHECK(kind && (strcmp(kind, "fastest") == 0 || strcmp(kind, "longest word") == 0));
        CHECK(task_right(r->prompt, r->chosen) && !task_right(r->prompt, r->rejected));
        CHECK(r->prompt_n < 300);
        fastest += strcmp(kind, "fastest") == 0;
    }
    CHECK_NEAR((double)fastest / 300, 0.5, 0.1);
    source_free(&s);
    CHECK_ERR(task_write("/tmp/x", 1, 1, false, &wrong, &err), &err, ERR_USAGE, "kinds of tasks");
    CHECK(strstr(err.hint, "longest word"));
}

TEST(sizes_are_checked)
{
    struct err err;

    CHECK_ERR(task_write("/tmp/x", 0, 1, false, &all, &err), &err, ERR_USAGE, "records");
    CHECK_ERR(task_write("/nowhere/at/all/x", 1, 1, false, &all, &err), &err, ERR_SYSTEM, "nowhere");
}

TEST_MAIN(CASE(the_judge_agrees_with_every_record), CASE(seed_and_number_fix_a_record),
          CASE(train_and_eval_share_no_prompt), CASE(numbers_are_judged_by_the_last_one),
          CASE(words_are_judged_by_the_end), CASE(only_the_last_question_counts), CASE(what_is_no_task_is_not_right),
          CASE(kinds_are_chosen_and_plain_is_short), CASE(sizes_are_checked))
