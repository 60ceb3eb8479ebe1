/* Counters alone: every rank has the same norm before it, and so the same scale after it. */
#include "phases/loss_scale.h"

#include <math.h>

void loss_scale_init(struct loss_scale *s, const struct loss_scaling *o)
{
    *s = (struct loss_scale){ .value = o->initial > 0 ? o->initial : 1, .left = o->hysteresis };
}

static int shrink(struct loss_scale *s, const struct loss_scaling *o)
{
    if (s->left <= 1 && s->value <= o->min)
        return -1;
    if (s->left > 1)
        s->left--;
    else
        s->value = fmax(s->value / 2, o->min);
    s->good = 0;
    s->skipped++;
    return 0;
}

int loss_scale_step(struct loss_scale *s, const struct loss_scaling *o, bool overflow)
{
    if (o->initial <= 0)
        return overflow ? -1 : 0;
    if (overflow)
        return shrink(s, o);
    if (++s->good < o->window)
        return 0;
    s->value *= 2;
    s->good = 0;
    s->left = o->hysteresis;
    return 0;
}
