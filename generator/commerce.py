"""What merchants sell: category codes, how much is spent there, and where such a payment happens.

Only facts here: nothing in this module draws or computes.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATEGORIES", "CHANNELS", "Category"]

# In the order of the codes that the traffic arrays hold; the kernel takes the first three for card-present.
CHANNELS = ("pos", "contactless", "atm", "ecom")


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of merchant.

    Attributes:
        name: the noun in the merchant's name.
        mcc: ISO 18245 merchant category code.
        median_usd: median amount; amounts are log-normal.
        sigma: standard deviation of the logarithm of the amount.
        shop_weight: how common it is among physical merchants, 0 = none.
        online_weight: how common it is among online merchants, 0 = none.
        tags: what frauds look for: ``tester`` (cheap, delivered at once), ``resale`` (dear, easily sold on), ``money``
            (moves money).
    """

    name: str
    mcc: int
    median_usd: float
    sigma: float
    shop_weight: float = 0.0
    online_weight: float = 0.0
    tags: tuple[str, ...] = ()


CATEGORIES: tuple[Category, ...] = (
    Category("Grocery", 5411, 36.0, 0.65, 24.0, 3.0),
    Category("Restaurant", 5812, 32.0, 0.60, 14.0),
    Category("Cafe", 5814, 11.0, 0.45, 14.0, 4.0),
    Category("Fuel", 5541, 44.0, 0.40, 9.0),
    Category("Pharmacy", 5912, 22.0, 0.60, 7.0, 2.0),
    Category("Clothing", 5651, 68.0, 0.70, 7.0, 12.0),
    Category("Department Store", 5311, 60.0, 0.75, 6.0, 10.0),
    Category("Electronics", 5732, 190.0, 0.85, 3.0, 11.0, ("resale",)),
    Category("Jewellery", 5944, 260.0, 0.85, 1.0, 3.0, ("resale",)),
    Category("Hotel", 7011, 190.0, 0.60, 4.0, 4.0),
    Category("Airline", 4511, 330.0, 0.60, 0.0, 4.0, ("resale",)),
    Category("Travel Agency", 4722, 420.0, 0.65, 0.0, 3.0),
    Category("Taxi", 4121, 18.0, 0.50, 4.0, 4.0),
    Category("Digital Goods", 5815, 12.0, 0.55, 0.0, 14.0, ("tester",)),
    Category("Streaming", 4899, 14.0, 0.30, 0.0, 9.0, ("tester",)),
    Category("Charity", 8398, 25.0, 0.70, 0.0, 3.0, ("tester",)),
    Category("Gift Cards", 5947, 75.0, 0.60, 1.0, 4.0, ("resale",)),
    Category("Marketplace", 5964, 45.0, 0.85, 0.0, 10.0),
    Category("Cash Machine", 6011, 110.0, 0.50, 5.0),
    Category("Money Transfer", 4829, 220.0, 0.80, 1.0, 3.0, ("money",)),
)
