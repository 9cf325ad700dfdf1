"""The words of the sample world: twenty tastes, each with the products by which it shows in a domain.

The products of a taste stand in the order of its recipe: number 3 in one domain goes with number 3 in the others.
No product appears twice in a domain.
"""

PRODUCTS_PER_TASTE = 6

_FOOD = {
    "coffee": "Espresso Beans, Dark Roast Ground Coffee, Cold Brew Concentrate, Coffee Capsules, "
    "Barista Oat Milk, Caramel Latte Syrup",
    "tea": "Loose Leaf Green Tea, Earl Grey Tea Bags, Chamomile Infusion, Jasmine Pearls, Masala Chai Mix, "
    "Darjeeling Black Tea",
    "baking": "Bread Flour, Instant Dry Yeast, Vanilla Extract, Brown Sugar, Pie Crust Mix, Cupcake Sprinkles",
    "chocolate": "Dark Chocolate Bar, Cocoa Powder, Chocolate Truffles, Melting Chocolate Chips, "
    "Hot Cocoa Mix, Cacao Nibs",
    "italian": "Spaghetti Pasta, Marinara Sauce, Pizza Dough Mix, Grated Parmesan, Basil Pesto, Risotto Rice",
    "mexican": "Corn Tortillas, Chipotle Salsa, Refried Beans, Taco Seasoning, Guacamole Mix, Jalapeno Hot Sauce",
    "indian": "Basmati Rice, Curry Powder, Garam Masala, Red Lentil Dal, Ghee Butter, Mango Chutney",
    "japanese": "Sushi Rice, Nori Seaweed Sheets, Miso Paste, Ramen Noodles, Wasabi Paste, Matcha Powder",
    "chinese": "Jasmine Stir Fry Rice, Oyster Sauce, Sichuan Pepper, Wonton Wrappers, Dumpling Dipping Sauce, "
    "Lo Mein Noodles",
    "french": "Dijon Mustard, Herbes de Provence, Crepe Mix, Duck Confit, Brioche Rolls, Onion Soup Base",
    "grill": "Barbecue Sauce, Smoked Brisket Rub, Burger Seasoning, Steak Marinade, Hickory Jerky, Pulled Pork Sauce",
    "seafood": "Smoked Salmon Fillet, Canned Sardines, Crab Boil Seasoning, Shrimp Cocktail Sauce, "
    "Tuna Steaks, Clam Chowder",
    "vegan": "Firm Tofu Block, Plant Protein Burger, Cashew Cheese, Tempeh Strips, Almond Milk, "
    "Nutritional Yeast Flakes",
    "breakfast": "Pancake Mix, Maple Syrup, Steel Cut Oatmeal, Granola Cereal, Strawberry Jam, Waffle Batter Mix",
    "fitness": "Whey Protein Powder, Protein Bars, Electrolyte Drink Mix, Peanut Butter Powder, "
    "Creatine Gummies, Low Carb Shake",
    "cocktails": "Margarita Mixer, Tonic Water, Aromatic Bitters, Maraschino Cherries, Bloody Mary Mix, "
    "Grenadine Syrup",
    "cheese and wine": "Aged Gouda Wheel, Brie Cheese, Fig Spread, Olive Tapenade, Cheese Crackers, Marcona Almonds",
    "preserving": "Pickling Cucumbers, Canning Salt, Fruit Pectin, Fermented Sauerkraut, Kimchi Cabbage, "
    "Apple Cider Vinegar",
    "soup": "Chicken Bone Broth, Vegetable Stock, Tomato Bisque, Beef Stew Mix, Split Pea Soup, Chili Starter",
    "baby": "Infant Rice Cereal, Baby Apple Puree, Toddler Snack Puffs, Baby Formula, Teething Biscuits, "
    "Toddler Yogurt Melts",
}
_KITCHEN = {
    "coffee": "Espresso Machine, Burr Coffee Grinder, Cold Brew Pitcher, Coffee Capsule Holder, Milk Frother, "
    "Latte Cup Set",
    "tea": "Gooseneck Tea Kettle, Teapot with Infuser, Tea Strainer, Glass Tea Cups, Tea Bag Chest, Tea Tin Canister",
    "baking": "Stand Mixer, Loaf Pan, Rolling Pin, Cookie Sheet, Pie Dish, Cupcake Decorating Kit",
    "chocolate": "Chocolate Mold, Double Boiler, Truffle Dipping Tool, Chocolate Fondue Pot, Hot Cocoa Maker, "
    "Candy Thermometer",
    "italian": "Pasta Maker, Pasta Strainer, Pizza Stone, Parmesan Grater, Mortar for Pesto, Risotto Pan",
    "mexican": "Tortilla Press, Molcajete Salsa Bowl, Bean Masher, Taco Holder, Guacamole Bowl, Chili Pepper Roaster",
    "indian": "Basmati Rice Steamer, Spice Grinder, Masala Spice Box, Lentil Pressure Cooker, "
    "Kadhai Curry Pan, Tawa Flatbread Pan",
    "japanese": "Sushi Rolling Mat, Japanese Rice Cooker, Miso Soup Bowls, Ramen Bowl Set, Santoku Knife, Matcha Whisk",
    "chinese": "Carbon Steel Wok, Wok Spatula, Chinese Cleaver, Bamboo Dumpling Steamer, Dipping Sauce Dishes, "
    "Chopsticks Set",
    "french": "Enameled Dutch Oven, Copper Saucepan, Crepe Pan, Cassoulet Dish, Brioche Tin, Onion Soup Crocks",
    "grill": "Charcoal Grill Basket, Meat Smoker Box, Burger Press, Steak Tongs, Meat Thermometer, Pulled Pork Claws",
    "seafood": "Fish Fillet Knife, Fish Scaler, Crab Cracker Set, Shrimp Deveiner, Fish Poacher Pan, Oyster Shucker",
    "vegan": "Tofu Press, Veggie Burger Mold, Nut Cheese Cloth, Vegetable Spiralizer, Nut Milk Maker, Salad Spinner",
    "breakfast": "Pancake Griddle, Syrup Dispenser, Oatmeal Pot, Cereal Dispenser, Bread Toaster, Waffle Iron",
    "fitness": "Protein Shaker Bottle, Food Scale, Insulated Water Bottle, Personal Smoothie Blender, "
    "Meal Prep Containers, Salad Lunch Box",
    "cocktails": "Cocktail Shaker, Ice Ball Mold, Bar Jigger, Muddler, Martini Glasses, Bar Mixing Spoon",
    "cheese and wine": "Cheese Slicer, Cheese Board, Wine Decanter, Corkscrew, Wine Glasses, Wine Cooler Sleeve",
    "preserving": "Mason Jars, Canning Pot, Jar Lifter, Fermentation Crock, Vacuum Sealer, Food Dehydrator",
    "soup": "Stock Pot, Slow Cooker, Immersion Blender, Stew Ladle, Soup Tureen, Chili Bowls",
    "baby": "Baby Food Maker, Baby Spoon Set, Toddler Plate, Baby Bottle Warmer, Silicone Bib, Toddler Sippy Cup",
}

WORDS = {
    domain: {taste: tuple(products.split(", ")) for taste, products in tastes.items()}
    for domain, tastes in {"food": _FOOD, "kitchen": _KITCHEN}.items()
}
"""Products per domain and taste. Any other domain gets the names of `products`."""

TASTES = tuple(_FOOD)

STYLES = {
    "classic": ("Classic", "Traditional", "Heritage"),
    "budget": ("Value", "Everyday", "Basic"),
    "organic": ("Organic", "Eco", "Natural"),
    "premium": ("Premium", "Luxury", "Gourmet"),
}
"""What a user looks for besides a taste, and the words that say so in a title."""

BRANDS = {
    "food": (
        "Alder & Co", "Bluestem", "Copperfield", "Elmhurst", "Goldleaf", "Ivory Coast", "Kestrel", "Mabel's",
        "Oakridge", "Quarry Road", "Silverbrook", "Umber & Ash",
    ),
    "kitchen": (
        "Birchwood", "Cobalt Lane", "Daybreak", "Fairhaven", "Hart & Sons", "Juniper Hill", "Lakeside", "Northgate",
        "Pinecrest", "Redwing", "Tillman's", "Valley Fair", "Westwind",
    ),
}  # fmt: skip
ANY_BRANDS = BRANDS["food"] + BRANDS["kitchen"]

EXTRAS = {
    "food": ("6 oz", "12 oz", "16 oz", "2 lb", "Pack of 2", "Pack of 6", "Family Size", "Resealable Bag"),
    "kitchen": ("Small", "Large", "Stainless Steel", "Black", "Red", "Set of 2", "Dishwasher Safe", "with Lid"),
}
ANY_EXTRAS = ("Small", "Medium", "Large", "Pack of 2", "Pack of 4", "Blue", "Green", "White")


def products(domain: str, taste: str) -> tuple[str, ...]:
    """Return the products by which a taste shows in a domain, in recipe order."""
    if domain in WORDS:
        return WORDS[domain][taste]
    kinds = ("Kit", "Set", "Guide", "Box", "Tool", "Gift")
    return tuple(f"{taste.title()} {domain.title()} {kind}" for kind in kinds)


def taste_of(domain: str, text: str) -> str | None:
    """Return the taste of the longest product of a domain that a text names, in any case of letters; none: None."""
    named = text.casefold()
    found = [
        (len(product), taste) for taste in TASTES for product in products(domain, taste) if product.casefold() in named
    ]
    return max(found)[1] if found else None


def brands(domain: str) -> tuple[str, ...]:
    """Return the makers of a domain's products: they say nothing about a taste."""
    return BRANDS.get(domain, ANY_BRANDS)


def extras(domain: str) -> tuple[str, ...]:
    """Return the sizes, colours and the like that end a title."""
    return EXTRAS.get(domain, ANY_EXTRAS)
