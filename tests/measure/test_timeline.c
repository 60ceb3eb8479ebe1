/* Runs of any length: what a line keeps of peaks and joules when it is halved. */
#include "measure/timeline.h"

#include <math.h>

#include "test.h"

TEST(long_runs_keep_peaks_and_joules)
{
    struct timeline t = { 0 };
    double joules = 0, from_s = 0;
    int64_t peak = 0;
    int n = 0;

    for (double now_s = 0.2; now_s < 3600; now_s += timeline_every(&t), n++) {
        const int i = n % 97;

        timeline_add(
            &t, &(struct timeline_point){
                    .seconds = now_s, .memory_bytes = n == 300 ? 5000 : 1000 + i, .gpu_bytes = -1, .watts = 100 + i });
        joules += (100 + i) * (now_s - from_s);
        from_s = now_s;
    }
    CHECK(t.n > TIMELINE_MAX / 2 - 1 && t.n <= TIMELINE_MAX);
    CHECK(n < 3 * 128 * 8); /* half as often each time */
    double kept = 0;
    from_s = 0;
    for (int i = 0; i < t.n; i++) {
        kept += t.points[i].watts * (t.points[i].seconds - from_s);
        CHECK(t.points[i].seconds > from_s);
        from_s = t.points[i].seconds;
        peak = t.points[i].memory_bytes > peak ? t.points[i].memory_bytes : peak;
        CHECK_EQ(t.points[i].gpu_bytes, -1);
    }
    CHECK_EQ(peak, 5000);
    CHECK_NEAR(kept, joules, 1e-6 * joules);
}

TEST(unknown_power_does_not_spread)
{
    struct timeline t = { 0 };

    for (int i = 0; i <= TIMELINE_MAX; i++)
        timeline_add(&t, &(struct timeline_point){
                             .seconds = 0.2 * (i + 1), .memory_bytes = -1, .gpu_bytes = i, .watts = i % 2 ? 50 : NAN });
    CHECK_EQ(t.n, TIMELINE_MAX / 2 + 1);
    CHECK_NEAR(t.points[0].watts, 50, 0);
    CHECK_EQ(t.points[0].gpu_bytes, 1);
    CHECK_EQ(t.points[0].memory_bytes, -1);
    CHECK_NEAR(timeline_every(&t), 2 * TIMELINE_FIRST_S, 1e-12);
}

TEST_MAIN(CASE(long_runs_keep_peaks_and_joules), CASE(unknown_power_does_not_spread))
