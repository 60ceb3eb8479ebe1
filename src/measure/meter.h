/* measure/meter.h - how a number says where it is from. A meter that cannot read says so and why: never 0, never a
 * guess in a measured column. */
#ifndef TUNEUP_MEASURE_METER_H
#define TUNEUP_MEASURE_METER_H

enum meter_state {
    METER_MEASURED, /* read from a counter, complete over the window */
    METER_ESTIMATED, /* there is a number, but it must not stand among measured ones unmarked */
    METER_UNAVAILABLE, /* there is none; the reason is beside it */
};

static inline const char *meter_state_name(enum meter_state state)
{
    return state == METER_MEASURED ? "measured" : state == METER_ESTIMATED ? "estimated" : "unavailable";
}

#endif
