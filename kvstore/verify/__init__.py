"""Does a cluster keep its promises? Histories of what clients saw, and checkers that judge them.

recorder = Recorder(time.monotonic)
call = recorder.begin("p1", "put", "k", value="1")
...                                              # the request itself
recorder.ok(call, version=written.version)       # or conflict, fail, unknown
judgement = judge(recorder.history())            # kvstore.verify.judge
assert judgement.verdict is Verdict.VALID
"""
