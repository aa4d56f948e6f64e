from tests.support.service import anonymous, other, service, settings, tenant

__all__ = ["anonymous", "other", "service", "settings", "tenant"]
