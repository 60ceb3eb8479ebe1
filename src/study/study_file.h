/* study/study_file.h - a study from a YAML file (JSON is YAML, so that does too):
 *     name: what fits my server        # all keys but cells are optional
 *     blocks: 5                        # how often each cell runs
 *     warmup: 1                        # discarded blocks before the first
 *     seed: 1234
 *     timeout: 3600                    # seconds that a run may take
 *     model: DIR                       # else the study makes a small one
 *     data: PATH                       # else the study makes records
 *     ranks: [1, 2]
 *     reward_model: DIR                # PPO's critic and reward model; else the study makes one
 *     options: { max_steps: 20, ppo: { ppo_epochs: 2 } }   # for the command lines of all phase cells, or of one phase's
 *     cells:
 *       - { name: baseline, phase: sft }
 *       - { name: bf16, phase: sft, techniques: [bf16], baseline: baseline, options: { learning_rate: 1e-5 } }
 *       - { name: torch, command: [python3, train.py, --lr, "${lr}"], phase: mine, techniques: [fp16] }
 *       - { name: more, command: train, arguments: [--fp16], environment: { A: b }, folder: DIR, loss_pattern: "loss (.*)" }
 *     commands: { train: [python3, train.py] }             # names for the commands of several cells
 *     parameters: { lr: 1e-3 }                             # what ${lr} stands for; of a cell alone with the same key there
 *     environment, folder, loss_pattern                    # of all commands, unless a cell has its own
 * A cell without `baseline` is compared with the first cell of its kind. Unknown keys, wrong types, repeated keys and
 * bad numbers are errors with line and nearest key. Aliases are followed, within the limits of cells.h. */
#ifndef TUNEUP_STUDY_STUDY_FILE_H
#define TUNEUP_STUDY_STUDY_FILE_H

#include "base/file.h"
#include "study/cells.h"

#define STUDY_FILE_MAX_BYTES (1 << 20)

/* Templates, for cells_finish. On error *s is empty; ERR_INPUT for what the file holds. */
int study_file_load(struct cells *s, const char *path, struct err *err);
/* The path of a study that a user names: a file, or one of those that come with the program ("deepspeed-chat-opt-350m"), which
 * lie in TUNEUP_STUDIES, beside the installed program in ../share/tuneup/studies, or in a source tree's studies. ERR_INPUT names
 * them when there is none. */
int study_file_find(char out[FILE_PATH_MAX], const char *name, struct err *err);
/* The same from text; name is the file's name in messages. */
int study_file_parse(struct cells *s, const char *text, size_t n, const char *name, struct err *err);

#endif
