#include "measure/model.h"

#include <math.h>

#include "test.h"

TEST(words_are_parsed_or_refused)
{
    static const char *const bad[] = {
        "",         "tdp", "tdp:x", "tdp:-5", "tdp:0", "idle:5", "idle:50,max:20", "idle:5,max:", "tdp:10,max:5",
        "tdp:1e99", "65"
    };
    struct model m;
    struct err err = { 0 };

    CHECK_OK(model_parse(NULL, &m, &err), &err);
    CHECK(!m.on);
    CHECK_OK(model_parse("none", &m, &err), &err);
    CHECK(!m.on);
    CHECK_OK(model_parse("tdp:65", &m, &err), &err);
    CHECK(m.on && m.max_w == 65 && m.idle_w == 6.5);
    CHECK_OK(model_parse("idle:20,max:150.5", &m, &err), &err);
    CHECK(m.on && m.max_w == 150.5 && m.idle_w == 20);
    for (int i = 0; i < COUNT_OF(bad); i++)
        CHECK_ERR(model_parse(bad[i], &m, &err), &err, ERR_USAGE, "energy model");
}

TEST(estimates_fill_in_and_say_so)
{
    const struct model m = { .idle_w = 20, .max_w = 120, .on = true };
    struct job_record r = { .seconds = 10, .cpu_seconds = 20, .energy = { .joules = NAN, .state = METER_UNAVAILABLE } };

    model_apply(&(struct model){ 0 }, 4, &r);
    CHECK_EQ(r.energy.state, METER_UNAVAILABLE);
    model_apply(&m, 4, &r);
    CHECK_EQ(r.energy.state, METER_ESTIMATED);
    CHECK_NEAR(r.energy.joules, 700, 1e-9); /* half of the CPUs */
    CHECK(strstr(r.energy.reason, "no measurement"));
    CHECK_STR(r.energy.domains[0].name, "model(idle:20,max:120)");
    r.energy = (struct energy_result){ .joules = 5, .state = METER_MEASURED };
    model_apply(&m, 4, &r);
    CHECK_NEAR(r.energy.joules, 5, 0); /* what was measured stays */
}

TEST_MAIN(CASE(words_are_parsed_or_refused), CASE(estimates_fill_in_and_say_so))
