# Puts what `program list` prints between the two lines of a page that name the list: awk -v program=PATH -v list=NAME -f between.awk PAGE
index($0, ".\\\" end " list) == 1 {
    command = program " " list
    while ((command | getline line) > 0)
        print line
    inside = 0
}
!inside
index($0, ".\\\" begin " list ":") == 1 { inside = 1 }
