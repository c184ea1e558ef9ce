"""Does knowing the kinds of people help with a newcomer?"""
