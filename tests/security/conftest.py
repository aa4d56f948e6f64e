from tests.support.service import anonymous, limited, other, service, settings, tenant

__all__ = ["anonymous", "limited", "other", "service", "settings", "tenant"]
