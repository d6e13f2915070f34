"""What every staff page is made of: scoping, saving through services, deeds, and how values look."""

from apps.core.staff.admin import Panel, ServiceAdmin, TemplateParts, TenantAdmin
from apps.core.staff.charts import Chart, Line, chart
from apps.core.staff.deeds import Deed, deed
from apps.core.staff.differences import Difference, differences, plain_text
from apps.core.staff.display import (
    ago,
    badge,
    code,
    column,
    exact,
    json_block,
    link,
    milliseconds,
    reveal,
    text_block,
    words,
)
from apps.core.staff.fields import LinesField, PairsField, SecretField, WordsField
from apps.core.staff.filters import ExactTextFilter, MomentFilter, ScopedFilter, choices_filter
from apps.core.staff.forms import ServiceForm
from apps.core.staff.pages import PlatformAdmin, actor_of
from apps.core.staff.paginator import CappedPaginator

__all__ = [
    "CappedPaginator",
    "Chart",
    "Deed",
    "Difference",
    "ExactTextFilter",
    "Line",
    "LinesField",
    "MomentFilter",
    "PairsField",
    "Panel",
    "PlatformAdmin",
    "ScopedFilter",
    "SecretField",
    "ServiceAdmin",
    "ServiceForm",
    "TemplateParts",
    "TenantAdmin",
    "WordsField",
    "actor_of",
    "ago",
    "badge",
    "chart",
    "choices_filter",
    "code",
    "column",
    "deed",
    "differences",
    "exact",
    "json_block",
    "link",
    "milliseconds",
    "plain_text",
    "reveal",
    "text_block",
    "words",
]
