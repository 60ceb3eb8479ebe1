/* The other sources: AMD's libraries, hwmon, DCMI's answers, meters at the wall. */
#include "measure/channel.h"

#include <errno.h>
#include <math.h>
#include <sys/wait.h>

#include "machine_fixture.h"
#include "measure/ipmi.h"
#include "measure/wall.h"

/* ---- Players: what becomes of readings is the same for every source, so that a source of scripts stands for all ---- */

#define J 1000000LL /* microjoules */
#define LOST (-1) /* a reading that fails */

struct script {
    const char *name;
    bool power; /* watts rather than a counter's microjoules */
    int64_t range_uj;
    double every_s; /* between two readings */
    int64_t readings[6];
    int error; /* of those that fail */
    double joules; /* NAN: unavailable */
    const char *reason; /* a part of it */
};

static const struct script *playing;
static int place;

static int play(const struct channel *c, struct channel_reading *out)
{
    const int64_t value = playing->readings[place];

    (void)c;
    if (value == LOST)
        return -playing->error;
    if (playing->power)
        out->power_w = (double)value;
    else
        out->uj = value;
    return 0;
}

static const struct energy_source player_source = { .name = "player", .read = play };

TEST(players_are_judged_alike_whatever_the_source)
{
    static const struct script scripts[] = {
        { "constant", false, 0, 1, { 7 * J, 107 * J, 207 * J, 307 * J, 407 * J, 507 * J }, 0, 500, "" },
        { "ramp", false, 0, 1, { 0, 10 * J, 30 * J, 60 * J, 100 * J, 150 * J }, 0, 150, "" },
        { "wrap", false, 9000 * J - 1, 1, { 8800 * J, 8900 * J, 0, 100 * J, 200 * J, 300 * J }, 0, 500, "" },
        { "double wrap",
          false,
          900 * J,
          1,
          { 0, 100 * J, 200 * J, 300 * J, 400 * J, 500 * J },
          0,
          NAN,
          "wrapped unseen" },
        { "reset",
          false,
          90000 * J,
          1,
          { 50000 * J, 50100 * J, 0, 100 * J, 200 * J, 300 * J },
          0,
          NAN,
          "as by a reset" },
        { "fall of unknown range", false, 0, 1, { 500 * J, 600 * J, 0, 100 * J, 200 * J, 300 * J }, 0, NAN, "fell" },
        { "stuck", false, 0, 1, { 5 * J, 5 * J, 5 * J, 5 * J, 5 * J, 5 * J }, 0, NAN, "did not move" },
        { "permission lost",
          false,
          0,
          1,
          { 0, 100 * J, 200 * J, LOST, LOST, LOST },
          EACCES,
          NAN,
          "became unreadable 2 s after the start: Permission denied; 200 J until then" },
        { "permission lost at once",
          false,
          0,
          1,
          { 0, LOST, LOST, LOST, LOST, LOST },
          EPERM,
          NAN,
          "became unreadable 0 s after the start: Operation not permitted" },
        { "permission given back", false, 0, 1, { 0, 100 * J, LOST, LOST, 400 * J, 500 * J }, EACCES, 500, "" },
        { "zone that vanishes",
          false,
          0,
          1,
          { 0, 100 * J, 200 * J, 300 * J, LOST, LOST },
          ENOENT,
          NAN,
          "became unreadable 3 s after the start: No such file" },
        { "constant power", true, 0, 1, { 100, 100, 100, 100, 100, 100 }, 0, 500, "" },
        { "ramp of power", true, 0, 1, { 0, 20, 40, 60, 80, 100 }, 0, 250, "" },
        { "no power", true, 0, 1, { 0, 0, 0, 0, 0, 0 }, 0, NAN, "told as 0 W" },
        { "power of which permission is lost",
          true,
          0,
          1,
          { 100, 100, 100, LOST, LOST, LOST },
          EPERM,
          NAN,
          "became unreadable 2 s after the start: Operation not permitted; 200 J until then" },
        { "power with a hole", true, 0, 4, { 100, LOST, LOST, 100, 100, 100 }, EIO, NAN, "not told for 12 s" },
        { "device that vanishes", true, 0, 1, { 100, 100, 100, 100, LOST, LOST }, ENODEV, NAN, "No such device" },
    };
    const struct fixture f = machine_new("");

    for (int i = 0; i < COUNT_OF(scripts); i++) {
        struct channel_set set = { 0 };
        struct energy_domain d;
        struct channel *c = channel_add(&set, &player_source, NULL, "player");

        CHECK(c != NULL);
        playing = &scripts[i];
        c->counter = !playing->power;
        c->range_uj = playing->range_uj;
        for (place = 0; place < COUNT_OF(playing->readings); place++) {
            if (place > 0)
                pass(playing->every_s);
            (place > 0 ? channel_poll : channel_start)(c);
        }
        channel_judge(c, fake_now(), &d);
        const bool known = !isnan(playing->joules);
        if ((d.state == METER_MEASURED) != known || isnan(d.joules) == known || !strstr(d.reason, playing->reason) ||
            (known && fabs(d.joules - playing->joules) > 1e-6))
            fail_msg("%s: %g J, state %d, \"%s\"", playing->name, d.joules, (int)d.state, d.reason);
    }
    machine_free(&f);
}

/* ---- Sources ---- */

static void fake_amd(const struct fixture *f, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "%s/amd", f->root);
    setenv("FAKE_AMD", path, 1);
    fixture_write(f, "amd", text);
}

TEST(amd_counts_in_its_own_steps)
{
    const struct fixture f = machine_new("");
    struct energy_gpus g;
    use_stub("TUNEUP_AMDSMI", "stub_amdsmi");
    fake_amd(&f, "1000000 16 1000 0\n");
    struct energy_meter *m = start_all(NULL);
    pass(10);
    fake_amd(&f, "126000000 16 5000 80\n");
    const struct energy_result r = read_now(m);
    energy_read_gpus(m, &g);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 2000, 1e-9);
    CHECK_EQ(g.peak_bytes, 4000);
    CHECK_EQ(g.gpus[0].memory_bytes, (int64_t)1 << 36);
    machine_free(&f);
}

TEST(rocm_stands_in_and_integrates)
{
    const struct fixture f = machine_new("");
    use_stub("TUNEUP_ROCM_SMI", "stub_rocm");
    fake_amd(&f, "300000000\n");
    struct energy_meter *m = start_all(NULL);
    pass(2);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_NEAR(r.joules, 600, 1e-6);
    CHECK(domain(&r, "amdgpu0", 0)->integrated);
    machine_free(&f);
}

static void sensor(const struct fixture *f, const char *file, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "class/hwmon/%s", file);
    fixture_write(f, path, text);
}

TEST(hwmon_is_known_by_its_driver)
{
    const struct fixture f = machine_new("");
    sensor(&f, "hwmon0/name", "nct6775\n");
    sensor(&f, "hwmon0/power1_input", "7000000\n");
    sensor(&f, "hwmon1/name", "amdgpu\n");
    sensor(&f, "hwmon1/power1_average", "100000000\n");
    sensor(&f, "hwmon2/name", "xe\n");
    sensor(&f, "hwmon2/energy1_input", "1000000\n");
    sensor(&f, "hwmon2/energy1_label", "card\n");
    sensor(&f, "hwmon2/energy2_input", "900000\n");
    sensor(&f, "hwmon2/energy2_label", "pkg\n");
    sensor(&f, "hwmon3/name", "power_meter\n");
    sensor(&f, "hwmon3/power1_average", "500000000\n");
    struct energy_meter *m = start_all(NULL);
    pass(2);
    sensor(&f, "hwmon2/energy1_input", "51000000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 250, 1e-6); /* 200 of the card by power, 50 of the other by its counter */
    CHECK(!domain(&r, "nct6775/power", 0)->counted);
    CHECK(!domain(&r, "xe/pkg", 0)->counted);
    CHECK(!domain(&r, "machine-0 (hwmon)", 0)->counted);
    CHECK_NEAR(domain(&r, "machine-0 (hwmon)", 0)->joules, 1000, 1e-6);
    machine_free(&f);
}

TEST(board_meter_counts_where_nothing_finer_does)
{
    const struct fixture f = machine_new("");
    sensor(&f, "hwmon0/name", "power_meter\n");
    sensor(&f, "hwmon0/power1_average", "500000000\n");
    struct energy_meter *m = start_all(NULL);
    pass(2);
    struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 1000, 1e-6);
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n"); /* for root alone: not claimed then */
    m = start_all(NULL);
    pass(2);
    r = read_now(m);
    energy_stop(m);
    CHECK_NEAR(r.joules, 1000, 1e-6);
    CHECK(strstr(r.reason, "without package-0"));
    machine_free(&f);
}

TEST(sockets_of_amd_energy_are_packages)
{
    const struct fixture f = machine_new("");
    sensor(&f, "hwmon0/name", "amd_energy\n");
    sensor(&f, "hwmon0/energy1_input", "5\n");
    sensor(&f, "hwmon0/energy1_label", "Ecore000\n");
    sensor(&f, "hwmon0/energy2_input", "1000000\n");
    sensor(&f, "hwmon0/energy2_label", "Esocket0\n");
    struct energy_meter *m = start_all(NULL);
    pass(1);
    sensor(&f, "hwmon0/energy2_input", "91000000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.n_domains, 1);
    CHECK_NEAR(r.joules, 90, 1e-9);
    CHECK(strstr(r.reason, "the whole machine's package-0 (hwmon), without its memory"));
    machine_free(&f);
}

TEST(sensor_that_vanishes_is_unavailable)
{
    const struct fixture f = machine_new("");
    char path[128];
    sensor(&f, "hwmon0/name", "i915\n");
    sensor(&f, "hwmon0/energy1_input", "0\n");
    struct energy_meter *m = start_all(NULL);
    snprintf(path, sizeof path, "%s/class/hwmon/hwmon0/energy1_input", f.root);
    unlink(path);
    pass(1);
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "became unreadable"));
    machine_free(&f);
}

static double suspended_now(void)
{
    return 3 + (fake_now() > 1000 ? 120 : 0);
}

TEST(sleep_makes_an_estimate)
{
    const struct fixture f = machine_new("");
    clock_fake_suspended(suspended_now);
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "0\n");
    struct energy_meter *m = start_all(NULL);
    pass(1);
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "90000000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    clock_fake_suspended(NULL);
    CHECK_EQ(r.state, METER_ESTIMATED);
    CHECK(strstr(r.reason, "slept for 120 s"));
    machine_free(&f);
}

TEST(dcmi_answers_are_parsed)
{
    unsigned char good[] = { 0, 0xdc, 0x2c, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40 };
    double watts = 0;
    CHECK_EQ(ipmi_parse_power(good, sizeof good, &watts), 0);
    CHECK_NEAR(watts, 300, 0);
    CHECK_EQ(ipmi_parse_power(good, sizeof good - 1, &watts), -EBADMSG);
    CHECK_EQ(ipmi_parse_power(good, 0, &watts), -EBADMSG);
    good[18] = 0;
    CHECK_EQ(ipmi_parse_power(good, sizeof good, &watts), -ENODATA);
    good[0] = 0xc1;
    CHECK_EQ(ipmi_parse_power(good, 1, &watts), -ENOTSUP);
}

TEST(wall_lines_are_parsed)
{
    static const struct {
        const char *line;
        double time_s, watts;
    } good[] = { { "123.5", NAN, 123.5 },
                 { "1714564800.25,200", 1714564800.25, 200 },
                 { "1714564800 200.5", 1714564800, 200.5 },
                 { "1714564800250;200\r", 1714564800.25, 200 },
                 { "\"2024-05-01T12:00:00Z\",77", 1714564800, 77 },
                 { "2024-05-01T12:00:00.5Z 77", 1714564800.5, 77 } };
    static const char *const bad[] = { "",      "time,watts", "nan", "1,inf", "-5", "5,-1", "2024-05-01T12:00:00,77",
                                       "1,1e9", "5,x" };
    double time_s, watts;

    for (int i = 0; i < COUNT_OF(good); i++) {
        if (!wall_parse(good[i].line, &time_s, &watts))
            fail_msg("\"%s\" is refused", good[i].line);
        CHECK(isnan(good[i].time_s) == isnan(time_s));
        CHECK(isnan(time_s) || fabs(time_s - good[i].time_s) < 1e-3);
        CHECK_NEAR(watts, good[i].watts, 1e-9);
    }
    for (int i = 0; i < COUNT_OF(bad); i++)
        if (wall_parse(bad[i], &time_s, &watts))
            fail_msg("\"%s\" is accepted", bad[i]);
}

TEST(wall_traces_are_integrated_by_their_own_times)
{
    struct wall_trace t = { .start_s = 10 };
    wall_add(&t, 9, 100);
    wall_add(&t, 11, 200); /* 150 W at the start of the window */
    CHECK_NEAR(wall_joules(&t, 11), 175, 1e-9);
    wall_add(&t, 10.5, 9999); /* back in time */
    wall_add(&t, 15, 200);
    CHECK_NEAR(wall_joules(&t, 15), 975, 1e-9);
    CHECK_NEAR(wall_joules(&t, 16), 1175, 1e-9);
    CHECK(isnan(wall_joules(&(struct wall_trace){ .start_s = 1 }, 2)));
}

TEST(wall_command_is_the_total)
{
    const struct fixture f = machine_new("");
    char command[300], script[200];
    clock_fake(NULL);
    fixture_write(&f, "meter", "while :; do echo junk; echo 50; sleep 0.02; done\n");
    snprintf(script, sizeof script, "%s/meter", f.root);
    snprintf(command, sizeof command, "cmd:sh %s", script);
    fixture_write(&f, "class/powercap/intel-rapl:0/name", "package-0\n");
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "0\n");
    struct energy_meter *m = start_all(command);
    CHECK(energy_helper(m) > 0);
    usleep(400 * 1000);
    fixture_write(&f, "class/powercap/intel-rapl:0/energy_uj", "5000000\n");
    const struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_MEASURED);
    CHECK_NEAR(r.joules, 50 * r.window_s, 0.02 * 50 * r.window_s);
    CHECK(!domain(&r, "package-0", 0)->counted);
    CHECK(strstr(r.reason, "wall (integrated)"));
    CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); /* and it is gone */
    machine_free(&f);
}

TEST(silent_wall_is_unavailable)
{
    const struct fixture f = machine_new("");
    char path[128];
    clock_fake(NULL);
    snprintf(path, sizeof path, "%s/trace", f.root);
    struct energy_meter *m = start_all(path);
    struct energy_result r = read_now(m);
    energy_stop(m);
    CHECK_EQ(r.state, METER_UNAVAILABLE);
    CHECK(strstr(r.reason, "wall: cannot be read: No such file"));
    CHECK(finding(&r, "wall")->hint[0]);
    m = start_all("cmd:false");
    r = read_now(m);
    energy_stop(m);
    CHECK(strstr(r.reason, "No data available"));
    m = start_all("cmd:echo 1000000000,50");
    r = read_now(m);
    energy_stop(m);
    CHECK(strstr(finding(&r, "wall")->why, "clock"));
    machine_free(&f);
}

TEST_MAIN(CASE(players_are_judged_alike_whatever_the_source), CASE(amd_counts_in_its_own_steps),
          CASE(rocm_stands_in_and_integrates), CASE(hwmon_is_known_by_its_driver),
          CASE(board_meter_counts_where_nothing_finer_does), CASE(sockets_of_amd_energy_are_packages),
          CASE(sensor_that_vanishes_is_unavailable), CASE(sleep_makes_an_estimate), CASE(dcmi_answers_are_parsed),
          CASE(wall_lines_are_parsed), CASE(wall_traces_are_integrated_by_their_own_times),
          CASE(wall_command_is_the_total), CASE(silent_wall_is_unavailable))
