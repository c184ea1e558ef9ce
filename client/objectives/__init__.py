"""What a personal training minimises: objectives, each a small pure function, composed as a weighted sum.

An objective turns a device's (or a simulated person's) material into weighted examples or pairs (`Objective`); the loss
over them is one of two, and `client/training_work.py` adds the objectives up:

    L(theta) = sum_k lambda_k L_k(theta),

    L_k of examples = sum_i sum_t w_it (-log p_theta(y_it | x_i, y_i<t)) / number of target tokens (those with w_it > 0)
    L_k of pairs    = mean_i -log sigmoid(beta margin_i(theta))      (`preference`)

| file | material | off in private training because |
|---|---|---|
| `turns` | own messages, preferred answers, three to a chat | one text stands in the prompts of others |
| `next_token` | the same, each by itself | - (one text, one example) |
| `preference` | choices and edits, as pairs (DPO) | - (one pair, one example) |
| `unlabelled` | files that the owner brought in | - (one passage, one example) |
| `grounded` | own messages, with earlier ones as notes | a message is a note in the examples of later ones |
| `influence` | token weights from the effect of the notes | a message changes the weights of later ones |
| `conversation_questions` | questions about what was said | one statement makes several examples |

`penchant train` takes `turns`, with privacy `next_token`; `simulations.studies.objectives.study` compares all of them.
"""
