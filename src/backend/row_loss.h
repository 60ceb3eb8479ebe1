/* backend/row_loss.h - PPO's two clipped losses, a row at a time: the same arithmetic in every backend, in double precision,
 * because it is a few operations on numbers that cost a forward pass. Schulman et al. 2017, arXiv:1707.06347, eq. 7; the
 * critic's clip is that of their code. A NaN comes out as a NaN: clipping must not hide it. */
#ifndef TUNEUP_BACKEND_ROW_LOSS_H
#define TUNEUP_BACKEND_ROW_LOSS_H

#include <math.h>

struct row_loss {
    double loss, slope; /* its derivative by the log-probability, or by the value */
};

static inline double row_loss_clip(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

/* The larger of the two; the clipped one does not move with what it was clipped from. Inside the clip they are one. */
static inline struct row_loss row_loss_larger(double plain, double clipped, double slope)
{
    return plain < clipped ? (struct row_loss){ clipped, 0 } : (struct row_loss){ plain, slope };
}

/* max(-A rho, -A clip(rho, 1-clip, 1+clip)), rho = exp(logp - old) */
static inline struct row_loss row_loss_policy(double logp, double old, double advantage, double clip)
{
    const double rho = exp(logp - old), plain = -advantage * rho;

    return row_loss_larger(plain, -advantage * row_loss_clip(rho, 1 - clip, 1 + clip), plain);
}

/* 1/2 max((v - wanted)^2, (clip(v, old-clip, old+clip) - wanted)^2) */
static inline struct row_loss row_loss_value(double v, double old, double wanted, double clip)
{
    const double off = v - wanted, clipped = row_loss_clip(v, old - clip, old + clip) - wanted;

    return row_loss_larger(off * off / 2, clipped * clipped / 2, off);
}

#endif
