"""Which of a client's endpoints a request is best sent to: a guide, never a part of safety.

    route.py     what a request is about, and whom it is for: its key's primary, or any replica of it
    table.py     what the nodes told: who stands behind which endpoint, who holds what, who is fit
    router.py    learns that in the background, and doubts it when an answer or a failure says otherwise

Any node answers for any key, so a wrong guess costs what not guessing costs: a hop between nodes.
"""
