"""One module per promise. Each has `check(history, ...) -> Judgement`; kvstore.verify.judge runs those that apply."""
