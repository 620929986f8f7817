/* bench_prompts.h - what `foresay bench --speculative` asks: ten classes of eight prompts, written by hand on 2026-11-28, before
 * any drafter of this project was trained on text, and frozen since (tests/test_bench_prompts.c holds their digest). The trainer
 * never sees them. Included by bench_speculative.c and that test. */
#ifndef FORESAY_BENCH_PROMPTS_H
#define FORESAY_BENCH_PROMPTS_H

enum { BENCH_PROMPT_CLASSES = 10, BENCH_PROMPTS = 8 };

struct bench_prompt_class {
    const char *name;
    const char *prompts[BENCH_PROMPTS];
};

static const struct bench_prompt_class bench_prompt_classes[BENCH_PROMPT_CLASSES] = {
    {"chat",
     {"I moved to a new town last month and still know nobody. Any advice?",
      "My neighbour plays loud drums every evening. How do I bring it up without a fight?",
      "I can't decide between tea and lemonade for a garden party. What do you think?",
      "Hi! I just passed my driving test and I'm so happy.", "What would you do on a rainy Sunday with two bored children?",
      "I forgot my best friend's birthday. How can I make it up to her?",
      "Is it rude to bring my own food to a dinner if I have an allergy?",
      "I have been feeling tired at work lately and my boss noticed. What should I say?"}},
    {"explain",
     {"Why is the sky blue during the day and red at sunset?", "How does a refrigerator keep food cold?",
      "Explain what inflation means and why prices rise.", "What is the difference between a virus and a bacterium?",
      "How does a bill become a law in most democracies?", "Explain how a bicycle stays upright while it moves.",
      "What happens inside a computer when I press a key on the keyboard?", "Why do leaves change their colour in autumn?"}},
    {"story",
     {"Write a short story about a lighthouse keeper who finds a message in a bottle.",
      "Tell me a bedtime story about a hedgehog who is afraid of the dark.",
      "Write the opening of a mystery in which a violin disappears before a concert.",
      "Write a story about two sisters who inherit a bakery and disagree about everything.",
      "Tell a tale about a robot that learns to paint.", "Write a short story in which it snows in July.",
      "Write about an old sailor who returns to the village of his childhood.",
      "Tell me a funny story about a parrot that repeats secrets."}},
    {"list",
     {"List ten things to pack for a week at the beach.",
      "Give me seven ideas for a birthday present for a grandfather who likes fishing.",
      "List the steps to change a flat tyre on a car.", "What are eight habits that help students remember what they read?",
      "Plan a three-day visit to Lisbon with a morning, an afternoon and an evening for each day.",
      "List twelve animals that are active at night.", "Give me five names for a small flower shop and a slogan for each.",
      "Make a shopping list for pancakes, tomato soup and a fruit salad for four people."}},
    {"math",
     {"A train travels 180 kilometres in 2 hours and 15 minutes. What is its average speed? Show your steps.",
      "Sara has three times as many marbles as Tim. Together they have 48. How many does each have?",
      "What is 17 percent of 250? Explain how you got the answer.",
      "A rectangle is 8 cm longer than it is wide and its perimeter is 64 cm. Find its area.",
      "Solve for x: 5x - 7 = 3x + 21. Show each step.",
      "A recipe for 6 people needs 450 grams of flour. How much is needed for 10 people?",
      "What is the sum of all whole numbers from 1 to 60? Explain the method.",
      "A shirt costs 40 dollars. It is reduced by 25 percent and then by another 10 percent. What is the final price?"}},
    {"code",
     {"Write a Python function that returns the longest word in a sentence.",
      "Write a C function that reverses a string in place.",
      "Write a JavaScript function that groups an array of people by their age.",
      "Write a Python class for a bank account with deposit, withdraw and a list of transactions.",
      "Write an HTML page with a form that has a name, an email address and a send button.",
      "Write a Python script that counts how often each word occurs in a text file.",
      "Write a SQL query that finds the five customers who spent the most last year.",
      "Write a Python function that checks whether a number is prime, and test it with five numbers."}},
    {"code edit",
     {"Rename the variable x to total in this code and print the whole code:\n\n```python\ndef add_all(numbers):\n    x = 0\n    "
      "for "
      "number in numbers:\n        x = x + number\n    if x > 100:\n        print('large sum', x)\n    return "
      "x\n\nprint(add_all([1, 2, "
      "3]))\n```",
      "Add a docstring to the function and repeat the rest unchanged:\n\n```python\ndef area_of_circle(radius):\n    if radius < "
      "0:\n    "
      "    raise ValueError('radius must not be negative')\n    return 3.14159 * radius * radius\n\nfor r in [1, 2, 5]:\n    "
      "print(area_of_circle(r))\n```",
      "Change the greeting from Hello to Good morning and show the full file:\n\n```python\nimport sys\n\ndef greet(name):\n    "
      "message = "
      "'Hello, ' + name + '!'\n    print(message)\n    return message\n\nif __name__ == '__main__':\n    if len(sys.argv) > 1:\n "
      "       "
      "greet(sys.argv[1])\n    else:\n        greet('world')\n```",
      "Fix the bug in this function (it should return the smallest number) and print all of it:\n\n```python\ndef "
      "smallest(numbers):\n    result = numbers[0]\n    for number in numbers:\n        if number > result:\n            result "
      "= "
      "number\n    return result\n\nprint(smallest([4, 2, 8, 6]))\n```",
      "Translate the comments into French and leave the code as it is:\n\n```javascript\n// Returns the price with "
      "tax.\nfunction "
      "withTax(price, rate) {\n  // The rate is given in percent.\n  return price * (1 + rate / 100);\n}\n\n// Show an "
      "example.\nconsole.log(withTax(100, 20));\n```",
      "Turn the while loop into a for loop. Print the complete program:\n\n```c\n#include <stdio.h>\n\nint main(void) {\n    int "
      "i = "
      "0;\n    int sum = 0;\n    while (i < 10) {\n        sum = sum + i;\n        printf(\"i = %d, sum = %d\\n\", i, sum);\n    "
      "    i = "
      "i + 1;\n    }\n    return 0;\n}\n```",
      "Add an email field to this class and repeat the whole class:\n\n```python\nclass Customer:\n    def __init__(self, name, "
      "phone, "
      "city):\n        self.name = name\n        self.phone = phone\n        self.city = city\n\n    def describe(self):\n       "
      " return "
      "self.name + ' from ' + self.city + ', phone ' + self.phone\n```",
      "Change the table name from users to members in these statements and print all of them:\n\n```sql\nCREATE TABLE users (id "
      "INTEGER "
      "PRIMARY KEY, name TEXT, joined DATE);\nINSERT INTO users (name, joined) VALUES ('Ada', '2024-01-05');\nINSERT INTO users "
      "(name, "
      "joined) VALUES ('Linus', '2024-02-17');\nSELECT name FROM users WHERE joined > '2024-02-01';\n```"}},
    {"JSON",
     {"Turn this list into a JSON array of objects with name, age and city: Anna is 31 and lives in Oslo. Ben is 27 and lives in "
      "Porto. "
      "Carla is 45 and lives in Turin. David is 39 and lives in Ghent.",
      "Add a field \"in_stock\": true to every item and print the JSON:\n\n[{\"id\": 1, \"name\": \"lamp\", \"price\": 24.5}, "
      "{\"id\": "
      "2, \"name\": \"chair\", \"price\": 59.0}, {\"id\": 3, \"name\": \"desk\", \"price\": 149.0}, {\"id\": 4, \"name\": "
      "\"shelf\", "
      "\"price\": 35.9}]",
      "Convert this CSV to "
      "JSON:\n\ncountry,capital,population\nNorway,Oslo,5400000\nPortugal,Lisbon,10300000\nItaly,Rome,58900000\n"
      "Belgium,Brussels,11700000",
      "Write a JSON object for a recipe with the fields title, servings, ingredients (a list of objects with name and amount) "
      "and steps "
      "(a list of strings). The recipe is a simple vegetable soup.",
      "Sort these objects by year and print the result as JSON:\n\n[{\"title\": \"River\", \"year\": 1998}, {\"title\": "
      "\"Stone\", "
      "\"year\": 1987}, {\"title\": \"Cloud\", \"year\": 2005}, {\"title\": \"Harbour\", \"year\": 1993}]",
      "Extract the people and their jobs from this text as JSON: Maria Lopez works as a nurse. Her brother Juan is a carpenter, "
      "and "
      "their cousin Elena teaches history.",
      "Rename the key \"temp\" to \"temperature\" everywhere:\n\n{\"city\": \"Graz\", \"days\": [{\"date\": \"2024-05-01\", "
      "\"temp\": "
      "17}, {\"date\": \"2024-05-02\", \"temp\": 19}, {\"date\": \"2024-05-03\", \"temp\": 14}]}",
      "Describe a week of opening hours of a library as JSON: one entry a day with \"open\" and \"close\". It is open from 9 to "
      "18 on "
      "weekdays, from 10 to 14 on Saturday and closed on Sunday."}},
    {"summary",
     {"Summarise in two sentences: The town council met on Tuesday to discuss the old mill by the river. Built in 1854, it had "
      "stood "
      "empty for thirty years. Some members wanted to tear it down and build a car park, because visitors complain every summer "
      "that "
      "there is no place to leave their cars. Others pointed out that the roof was repaired only five years ago and that a "
      "museum could "
      "bring more visitors. After three hours the council decided to ask an architect for a plan and to vote again in the "
      "autumn.",
      "What are the main points of this text? Honey bees visit up to a hundred flowers on one flight. When a worker has found a "
      "rich "
      "source of nectar, she returns to the hive and dances. The angle of her dance shows the direction of the flowers relative "
      "to the "
      "sun, and its length shows the distance. Other workers follow her movements in the dark hive and then fly out themselves. "
      "Without "
      "this dance a colony would have to spend far more time searching.",
      "Shorten this email to three sentences: Dear all, as you know we planned to move to the new office at the beginning of "
      "March. "
      "Unfortunately the builders found that the wiring on the second floor has to be replaced, which will take four more weeks. "
      "We will "
      "therefore stay in the present building until the second of April. Please do not order any furniture before the end of "
      "March, and "
      "tell your clients that our postal address stays the same until then. I am sorry for the trouble this causes.",
      "Give a one-paragraph summary: The first railways were built to carry coal from the mines to the ports. Passengers were an "
      "afterthought, and on some lines they sat on wooden benches in open wagons. Within twenty years, however, people travelled "
      "more "
      "than goods did. Towns set their clocks to the railway's time, newspapers arrived on the same day, and families could "
      "spend a "
      "Sunday at the sea. Land near stations became expensive, and new suburbs grew along the lines.",
      "Summarise for a child: Volcanoes form where melted rock from deep inside the Earth finds a way to the surface. The melted "
      "rock is "
      "called magma while it is below the ground and lava once it flows out. Some volcanoes erupt quietly, and their lava runs "
      "down like "
      "thick honey. Others explode, because gas is trapped in the magma like bubbles in a bottle that was shaken. The ash of "
      "large "
      "eruptions can travel around the whole world.",
      "List the three most important facts of this report: In the first quarter the shop sold 1,240 bicycles, 15 percent more "
      "than a year "
      "before. Most of the growth came from electric models, which now make up half of all sales. Repairs brought in less money "
      "than "
      "expected because two mechanics were ill in February. The manager plans to hire another mechanic in May and to open on "
      "Sundays "
      "during the summer.",
      "Summarise the argument in one sentence: Some people say that homework teaches children to work alone. But studies of "
      "pupils under "
      "ten show hardly any effect on what they know. Families spend tense evenings over exercises, and children whose parents "
      "cannot help "
      "fall behind. If the same half hour were spent reading for pleasure, both reading and family peace would gain.",
      "Summarise what happened: On the morning of the race the wind blew so hard that the small boats stayed in the harbour. At "
      "noon it "
      "calmed down and eleven crews started. The Swallow led until the last buoy, where a rope broke and her sail came down. The "
      "crew of "
      "the Heron, who could have won, turned around to help. In the end the Pelican won, and the judges gave the Heron a special "
      "prize."}},
    {"quote",
     {"Repeat this text and correct the spelling mistakes: Yesterday we went to the libary and borrowd three books about the "
      "sea. The "
      "women at the desk was very freindly and told us to bring them back untill the end of the month. My bother has allready "
      "read the "
      "first one.",
      "Copy this paragraph and put the most important sentence in capital letters: Glass is made from sand, soda and lime. The "
      "mixture is "
      "heated until it melts at about 1,500 degrees. While it is soft it can be blown, pressed or poured. When it cools down it "
      "becomes "
      "hard and clear.",
      "Rewrite this in the past tense: The boy walks to the old bridge. He sees a boat on the river and waves to the man in it. "
      "The man "
      "does not wave back. The boy waits until the boat is gone, and then he goes home and tells his mother about it.",
      "Quote the two sentences that mention money: The market opens at six in the morning. Farmers pay ten euros a day for a "
      "stall. Most of "
      "them come from villages nearby. In a good week a stall earns about four hundred euros. Musicians may play for free until "
      "noon.",
      "Repeat the following list in alphabetical order: walnut, cedar, maple, birch, oak, elm, spruce, ash, willow, beech, "
      "larch, pine.",
      "Make this text more polite and keep as many words as possible: Send me the report today. I need it for the meeting on "
      "Friday. You "
      "were late last time and I do not want to wait again. Put the numbers of June on the first page.",
      "Write this text again with the name Peter replaced by Julia and he by she: Peter is a gardener. He works in the park "
      "behind the town "
      "hall. In spring he plants tulips, and in autumn he collects the leaves. When it rains, Peter sits in his small hut and he "
      "drinks "
      "tea.",
      "Repeat this poem line by line and number the lines: The morning comes on quiet feet, / it leaves its silver in the "
      "street, / it "
      "wakes the baker, wakes the bird, / and waits until the first is heard; / then all the windows fill with light / and "
      "nobody recalls "
      "the night."}},
};

#endif
