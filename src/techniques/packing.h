/* techniques/packing.h - a graph whose ops on tokens work on some places of a batch alone, packed back to back: the first step
 * finds which (live_rows), inputs are gathered, outputs put back. Called by the techniques that leave places out. */
#ifndef TUNEUP_TECHNIQUES_PACKING_H
#define TUNEUP_TECHNIQUES_PACKING_H

#include "graph/graph.h"

/* Packs the graph, all places of it as yet; once. False: it is none that can be packed. */
bool packing_begin(struct graph *g);
/* Room for so many places is enough; 0: not known. */
void packing_limit(struct graph *g, int64_t most);
/* Those of live_rows: which places are left out. */
struct op_attrs *packing_attrs(struct graph *g);

#endif
