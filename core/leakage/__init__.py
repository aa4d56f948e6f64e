"""How much pictures say of whether a concept was asked for: a measured bracket of I(C; X), in nats.

C is 1 where the prompt names the concept and 0 where it names something else, each half of the time; X is
what the model draws. I(C; X) is at most log 2 = 0.693 nats. `lower` has its lower end, `paths` its upper
one, `independence` a test of whether it is above 0 at all. Nothing of it is a proof: it speaks of the prompts
that were drawn, and a high leakage does not say that the concept is still to be seen.
"""
