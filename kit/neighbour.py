class Neighbour:
    def up(self): pass
    def down(self): pass
