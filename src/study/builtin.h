/* study/builtin.h - the numbers of the built-in study, in one place: large enough that the techniques can be told apart,
 * small enough that all three phases take about ten minutes on two slow cores. */
#ifndef TUNEUP_STUDY_BUILTIN_H
#define TUNEUP_STUDY_BUILTIN_H

#define BUILTIN_RECORDS 2000 /* made by `tuneup data new` */
#define BUILTIN_VOCABULARY 4096
#define BUILTIN_HIDDEN 192
#define BUILTIN_LAYERS 6
#define BUILTIN_HEADS 3
#define BUILTIN_FFN (4 * BUILTIN_HIDDEN)
#define BUILTIN_BATCH 4
#define BUILTIN_PAIRS 2 /* of phase 2: as many rows as phase 1 has */
#define BUILTIN_TOKENS 256
#define BUILTIN_EVAL_BATCHES 0 /* none: the losses of the steps are compared */
#define BUILTIN_REWARD_TOKENS 64 /* of the step that makes PPO's reward model */
#define BUILTIN_STEPS 8 /* optimizer steps a run, the warm-up among them */
#define BUILTIN_ITERATIONS 5 /* of PPO, the warm-up among them; one update of actor and critic each */
#define BUILTIN_ANSWERS 4 /* prompts an iteration */
#define BUILTIN_PROMPT_TOKENS 64
#define BUILTIN_ANSWER_TOKENS 64
#define BUILTIN_BLOCKS 5
#define BUILTIN_WARMUP 0 /* discarded blocks: a run has warm-up steps, and making the inputs warms the caches */
#define BUILTIN_SEED 1234
#define BUILTIN_TIMEOUT_S 600.0
#define BUILTIN_RUN_BYTES (256LL << 20) /* disk that a run may need before its output is removed */

#endif
