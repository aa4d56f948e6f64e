"""What every request passes, in this order: sendfile, envelope, authentication (api/auth.py), rate_limit,
body_limit.
"""
