"""What the service answers, a file for each resource. What clients send is in api/request_schemas.py."""
