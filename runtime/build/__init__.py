"""Images out of Dockerfiles, as Docker's classic builder makes them (POST /build?version=1): every instruction a step, every step
an image that the next one stands on and that a later build may find again.
"""
