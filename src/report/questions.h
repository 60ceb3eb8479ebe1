/* report/questions.h - what is asked of all phases of a study together, and its answers. The questions are the findings of
 * Chen, Soto, Tuttle and Zong (IPDPSW 2024, doi 10.1109/IPDPSW63119.2024.00162): that no optimization wins every dimension,
 * that ZeRO-1 speeds up every phase, that gradient checkpointing saves the most memory and none saves much energy. An answer
 * names what was measured, and says of the rest that it was not. Cells of commands are left out. */
#ifndef TUNEUP_REPORT_QUESTIONS_H
#define TUNEUP_REPORT_QUESTIONS_H

#include "report/headlines.h"

void questions_answer(struct headlines *h, const struct loaded *l, const struct comparisons *c);

#endif
