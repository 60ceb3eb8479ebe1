/* measure/energy_total.h - which channels add up to the machine's joules, and in which words to say so. Called by
 * energy.c, with the lock held. */
#ifndef TUNEUP_MEASURE_ENERGY_TOTAL_H
#define TUNEUP_MEASURE_ENERGY_TOTAL_H

#include "measure/channel.h"

struct energy_surroundings {
    bool hypervisor; /* counters of the processor are somebody else's */
    double suspended_s; /* of the window */
    const char *zones_folder; /* where powercap's zones were looked for */
};
/* out->domains are judged one by one already. */
void energy_total(const struct channel_set *set, const struct energy_surroundings *where, struct energy_result *out);

#endif
