/* measure/ipmi.h - the power of the whole machine as its management controller tells it: DCMI's "Get Power Reading". */
#ifndef TUNEUP_MEASURE_IPMI_H
#define TUNEUP_MEASURE_IPMI_H

#include <stddef.h>

/* An answer's bytes, from the completion code on -> watts; -errno when it is none. */
int ipmi_parse_power(const unsigned char *data, size_t n, double *watts);

#endif
